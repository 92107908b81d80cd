import java.nio.file.Path;
import java.util.Map;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/**
 * One real Elasticsearch node in this process. Arguments: home folder, then setting=value.
 */
public final class AdtallyNode {
    public static void main(String[] arguments) {
        try {
            start(arguments);
            Thread.currentThread().join(); // the node's own threads do not keep the process alive
        } catch (Throwable error) { // threads of a half-started node would keep the process alive
            error.printStackTrace();
            System.exit(1);
        }
    }

    private static void start(String[] arguments) throws Exception {
        Path home = Path.of(arguments[0]);
        Settings.Builder settings = Settings.builder()
            .put("path.home", home.toString())
            .put("discovery.type", "single-node")
            .put("network.host", "127.0.0.1");
        for (int i = 1; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            settings.put(pair[0], pair[1]);
        }
        Environment environment = new Environment(settings.build(), home.resolve("config"));
        LogConfigurator.setNodeName("adtally");
        LogConfigurator.configure(environment, true);
        PluginsLoader loader = PluginsLoader.createPluginsLoader(
            PluginsLoader.loadModulesBundles(environment.modulesDir()),
            PluginsLoader.loadPluginsBundles(environment.pluginsDir()),
            Map.of(),
            false); // no exports between Java modules: everything is on the class path
        Node node = new Node(environment, loader);
        node.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
    }
}
