// What a program written with PostgreSQL's JDBC driver does. Where to connect stands in the environment, as libpq has
// it. Prints a line for each thing that went well; an exception ends it.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Arrays;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;

public class JdbcClient {
    static Connection connect(String... more) throws SQLException {
        Properties properties = new Properties();
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        properties.put("sslmode", "verify-full");
        properties.put("sslrootcert", System.getenv("PGSSLROOTCERT"));
        properties.put("options", "endpoint=main -c work_mem=7MB");
        for (int i = 0; i < more.length; i += 2) {
            properties.put(more[i], more[i + 1]);
        }
        // It knows no address beside a host name, and this name is known everywhere.
        return DriverManager.getConnection("jdbc:postgresql://localhost:" + System.getenv("PGPORT") + "/app", properties);
    }

    static void check(boolean condition, Object said) {
        if (!condition) {
            throw new AssertionError(said);
        }
    }

    static String ask(Connection connection, String query) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(query)) {
            rows.next();
            return rows.getString(1);
        }
    }

    static void queries(Connection connection) throws SQLException {
        check(ask(connection, "SHOW work_mem").equals("7MB"), "work_mem");
        check(ask(connection, "SHOW application_name").equals("jdbc"), "application_name");
        try (PreparedStatement statement = connection.prepareStatement("SELECT ?::int + 1, ? || 'ü'")) {
            // After five times it is prepared at the server.
            for (int number = 0; number < 20; number++) {
                statement.setInt(1, number);
                statement.setString(2, "ä");
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    check(rows.getInt(1) == number + 1 && rows.getString(2).equals("äü"), rows.getString(2));
                }
            }
        }
        System.out.println("queries");
    }

    static void batch(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        connection.createStatement().execute("CREATE TEMP TABLE t (a int PRIMARY KEY)");
        try (PreparedStatement statement = connection.prepareStatement("INSERT INTO t VALUES (?)")) {
            for (int number = 0; number < 10000; number++) {
                statement.setInt(1, number);
                statement.addBatch();
            }
            check(Arrays.stream(statement.executeBatch()).sum() == 10000, "batch");
        }
        connection.commit();
        // In pieces, through a cursor.
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(100);
            int count = 0;
            try (ResultSet rows = statement.executeQuery("SELECT a FROM t ORDER BY a")) {
                while (rows.next()) {
                    check(rows.getInt(1) == count++, count);
                }
            }
            check(count == 10000, count);
        }
        connection.rollback();
        connection.setAutoCommit(true);
        System.out.println("batch");
    }

    static void copy(Connection connection) throws Exception {
        connection.createStatement().execute("CREATE TEMP TABLE c (line text)");
        StringBuilder lines = new StringBuilder();
        for (int number = 0; number < 100000; number++) {
            lines.append(number).append("-ä-").append("x".repeat(80)).append('\n');
        }
        byte[] sent = lines.toString().getBytes(StandardCharsets.UTF_8);
        CopyManager manager = connection.unwrap(PGConnection.class).getCopyAPI();
        check(manager.copyIn("COPY c FROM STDIN", new ByteArrayInputStream(sent)) == 100000, "rows");
        ByteArrayOutputStream got = new ByteArrayOutputStream();
        manager.copyOut("COPY c TO STDOUT", got);
        check(Arrays.equals(sent, got.toByteArray()), "what came back differs");
        System.out.println("copy");
    }

    static void errors(Connection connection) throws SQLException {
        for (String[] wrong : new String[][] {{"password", "wrong", "28P01"}, {"user", "nobody", "28P01"}}) {
            try (Connection never = connect(wrong[0], wrong[1])) {
                throw new AssertionError(wrong[0]);
            } catch (SQLException error) {
                check(error.getSQLState().equals(wrong[2]), error);
            }
        }
        try {
            ask(connection, "SELECT 1 / 0");
            throw new AssertionError("a division by zero passed");
        } catch (SQLException error) {
            check(error.getSQLState().equals("22012"), error);
        }
        System.out.println("errors");
    }

    static void notifications(Connection connection) throws SQLException {
        connection.createStatement().execute("LISTEN news");
        try (Connection other = connect()) {
            other.createStatement().execute("NOTIFY news, 'payload'");
        }
        var told = connection.unwrap(PGConnection.class).getNotifications(60000);
        check(told.length == 1 && told[0].getParameter().equals("payload"), told.length);
        System.out.println("notifications");
    }

    static void cancel(Connection connection) throws Exception {
        String backend = ask(connection, "SELECT pg_backend_pid()");
        try (Statement sleeping = connection.createStatement(); Connection other = connect()) {
            Thread thread = new Thread(() -> {
                try {
                    String asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = ";
                    while (!ask(other, asleep + backend).equals("1")) {
                        Thread.onSpinWait();
                    }
                    sleeping.cancel();
                } catch (SQLException error) {
                    error.printStackTrace();
                }
            });
            thread.start();
            try {
                sleeping.execute("SELECT pg_sleep(1000)");
                throw new AssertionError("nothing was cancelled");
            } catch (SQLException error) {
                check(error.getSQLState().equals("57014"), error);
            }
            thread.join();
        }
        check(ask(connection, "SELECT 42").equals("42"), "the session ended");
        System.out.println("cancel");
    }

    public static void main(String[] arguments) throws Exception {
        try (Connection connection = connect("ApplicationName", "jdbc")) {
            queries(connection);
            batch(connection);
            copy(connection);
            errors(connection);
            notifications(connection);
            cancel(connection);
        }
    }
}
