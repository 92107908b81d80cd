import java.lang.reflect.Modifier;
import java.util.Collections;
import java.util.Map;
import java.util.TreeMap;
import java.util.jar.JarFile;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.GlobalConfiguration;
import org.apache.flink.configuration.JobManagerOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.runtime.clusterframework.TaskExecutorProcessUtils;
import org.apache.flink.runtime.jobmanager.JobManagerProcessUtils;

/**
 * Reads configuration folders as Flink does, and prints what it does not know or cannot read, as
 * lines of "folder, what, key": keys that no class of options has, values that their options refuse,
 * and memory that does not add up, where there is a size to add up to.
 */
public class CheckConfiguration {
    public static void main(String[] args) throws Exception {
        Map<String, ConfigOption<?>> known = known(args[0]);
        for (int at = 1; at < args.length; at++) {
            check(args[at], GlobalConfiguration.loadConfiguration(args[at]), known);
        }
    }

    static void check(String folder, Configuration found, Map<String, ConfigOption<?>> known) {
        for (String key : found.keySet()) {
            if (!known.containsKey(key)) {
                System.out.println(folder + "\tunknown\t" + key);
                continue;
            }
            try {
                found.getOptional(known.get(key));
            } catch (RuntimeException error) {
                System.out.println(folder + "\trefused\t" + key);
            }
        }
        if (found.contains(TaskManagerOptions.TOTAL_PROCESS_MEMORY)) {
            try {
                TaskExecutorProcessUtils.processSpecFromConfig(found);
                JobManagerProcessUtils.processSpecFromConfigWithNewOptionToInterpretLegacyHeap(
                        found, JobManagerOptions.JVM_HEAP_MEMORY);
            } catch (RuntimeException error) {
                System.out.println(folder + "\tmemory\t" + error.getClass().getSimpleName());
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
