import java.lang.reflect.Modifier;
import java.util.Collections;
import java.util.Map;
import java.util.TreeMap;
import java.util.jar.JarFile;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.GlobalConfiguration;
import org.apache.flink.configuration.JobManagerOptions;
import org.apache.flink.runtime.clusterframework.TaskExecutorProcessUtils;
import org.apache.flink.runtime.jobmanager.JobManagerProcessUtils;

/**
 * Reads a configuration folder as Flink does, and prints what Flink does not know or cannot read:
 * keys that no class of options has, values that their options refuse, memory that does not add up.
 */
public class CheckConfiguration {
    public static void main(String[] args) throws Exception {
        Configuration found = GlobalConfiguration.loadConfiguration(args[0]);
        Map<String, ConfigOption<?>> known = known(args[1]);
        for (String key : found.keySet()) {
            if (!known.containsKey(key)) {
                System.out.println("unknown\t" + key);
                continue;
            }
            try {
                found.getOptional(known.get(key));
            } catch (RuntimeException error) {
                System.out.println("refused\t" + key);
            }
        }
        if (args.length > 2) {
            try {
                System.err.println(TaskExecutorProcessUtils.processSpecFromConfig(found));
                System.err.println(
                        JobManagerProcessUtils.processSpecFromConfigWithNewOptionToInterpretLegacyHeap(
                                found, JobManagerOptions.JVM_HEAP_MEMORY));
            } catch (RuntimeException error) {
                System.out.println("memory\t" + error.getMessage());
            }
        }
    }

    static Map<String, ConfigOption<?>> known(String distribution) throws Exception {
        Map<String, ConfigOption<?>> options = new TreeMap<>();
        try (JarFile jar = new JarFile(distribution)) {
            for (var entry : Collections.list(jar.entries())) {
                String name = entry.getName();
                if (!name.startsWith("org/apache/flink/") || !name.endsWith("Options.class")
                        || name.contains("/shaded/")) {
                    continue;
                }
                String type = name.replace('/', '.').substring(0, name.length() - 6);
                Class<?> loaded =
                        Class.forName(type, false, CheckConfiguration.class.getClassLoader());
                for (var field : loaded.getDeclaredFields()) {
                    if (Modifier.isStatic(field.getModifiers())
                            && field.getType() == ConfigOption.class) {
                        field.setAccessible(true);
                        ConfigOption<?> option = (ConfigOption<?>) field.get(null);
                        options.put(option.key(), option);
                    }
                }
            }
        }
        return options;
    }
}
