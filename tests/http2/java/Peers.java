import io.vertx.core.Vertx;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import org.apache.hc.client5.http.classic.methods.HttpGet;
import org.apache.hc.client5.http.impl.classic.CloseableHttpClient;
import org.apache.hc.client5.http.impl.classic.HttpClients;
import org.apache.hc.core5.http.io.entity.EntityUtils;

/**
 * The JVM's clients and a server of it: {@code Peers jdk|apache URL COUNT}, {@code Peers vertx PORT}.
 *
 * <p>The JDK's client offers h2c with its first request, and Apache's since 5.4 TLS with each. A
 * client prints version, status and length of each response.
 */
public final class Peers {
    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "jdk" -> jdk(arguments[1], Integer.parseInt(arguments[2]));
            case "apache" -> apache(arguments[1], Integer.parseInt(arguments[2]));
            case "vertx" -> vertx(Integer.parseInt(arguments[1]));
            default -> throw new IllegalArgumentException("there is no such peer");
        }
    }

    private static void jdk(String url, int count) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).build();
        for (int n = 0; n < count; n++) {
            var response = client.send(request, BodyHandlers.ofByteArray());
            System.out.println(response.version() + " " + response.statusCode() + " " + response.body().length);
        }
    }

    private static void apache(String url, int count) throws Exception {
        try (CloseableHttpClient client = HttpClients.createDefault()) {
            for (int n = 0; n < count; n++) {
                String line = client.execute(new HttpGet(url), response -> {
                    int length = EntityUtils.toByteArray(response.getEntity()).length;
                    return response.getVersion() + " " + response.getCode() + " " + length;
                });
                System.out.println(line);
            }
        }
    }

    private static void vertx(int port) throws InterruptedException {
        Vertx.vertx().createHttpServer().requestHandler(request -> request.response().end("hello"))
            .listen(port, "0.0.0.0");
        Thread.currentThread().join();
    }
}
