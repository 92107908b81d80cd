import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** Submits the statements of a file to a cluster, waits for the last, and prints its job id. */
public final class FlinkSqlJob {
  public static void main(String[] arguments) throws Exception {
    Configuration configuration = new Configuration();
    configuration.setString("execution.target", "remote");
    configuration.setString("rest.address", "127.0.0.1");
    configuration.setString("rest.port", arguments[0]);
    configuration.setString("parallelism.default", "2");
    configuration.setString("execution.checkpointing.interval", "10s");
    configuration.setString("table.local-time-zone", "UTC");
    EnvironmentSettings settings =
        EnvironmentSettings.newInstance()
            .inStreamingMode()
            .withConfiguration(configuration)
            .build();
    TableEnvironment tables = TableEnvironment.create(settings);
    String[] statements = Files.readString(Path.of(arguments[1])).split(";\\s*\\n");
    for (int index = 0; index < statements.length - 1; index++) {
      tables.executeSql(statements[index]);
    }
    var result = tables.executeSql(statements[statements.length - 1]);
    System.out.println(result.getJobClient().orElseThrow().getJobID());
    result.await();
  }
}
