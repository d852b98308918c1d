import com.sun.net.httpserver.HttpServer;
import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.Unpooled;
import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.SimpleChannelInboundHandler;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpRequest;
import io.netty.handler.codec.http.HttpObjectAggregator;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.handler.codec.http.HttpVersion;
import io.undertow.Undertow;
import io.undertow.UndertowOptions;
import io.undertow.server.handlers.BlockingHandler;
import io.undertow.server.handlers.proxy.LoadBalancingProxyClient;
import io.undertow.server.handlers.proxy.ProxyHandler;
import io.vertx.core.Vertx;
import java.io.FileOutputStream;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.Executors;
import org.apache.hc.core5.http.ClassicHttpRequest;
import org.apache.hc.core5.http.impl.bootstrap.StandardFilter;
import org.apache.hc.core5.http.io.HttpRequestHandler;
import org.apache.hc.core5.http.io.entity.EntityUtils;
import org.apache.hc.core5.http.io.entity.StringEntity;
import org.apache.pekko.actor.ActorSystem;
import org.apache.pekko.http.javadsl.Http;
import org.apache.pekko.http.javadsl.model.HttpRequest;
import org.apache.pekko.http.javadsl.model.HttpResponse;
import org.apache.pekko.japi.function.Function;
import org.glassfish.grizzly.http.server.HttpHandler;
import org.glassfish.grizzly.http.server.NetworkListener;
import org.glassfish.grizzly.http.server.Request;
import org.glassfish.grizzly.http.server.Response;

/**
 * The HTTP servers of the JVM: {@code Peers NAME PORT RECORD [BACKEND]}.
 *
 * <p>Each reads the whole body, answers 200, and adds to the file RECORD a line of what it has read:
 * method, host and target, with a tab between them. The gateway records nothing: it passes requests
 * on to the port BACKEND, where a recorder listens.
 */
public final class Peers {
    private static FileOutputStream record;

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[1]);
        record = new FileOutputStream(arguments[2], true);
        switch (arguments[0]) {
            case "jdk" -> jdk(port);
            case "netty" -> netty(port);
            case "vertx" -> vertx(port);
            case "pekko" -> pekko(port);
            case "grizzly" -> grizzly(port);
            case "undertow" -> undertow(port);
            case "httpcore" -> httpcore(port);
            case "undertow-proxy" -> undertowProxy(port, Integer.parseInt(arguments[3]));
            default -> throw new IllegalArgumentException("there is no such server");
        }
        Thread.currentThread().join();
    }

    private static void note(Object... fields) {
        StringBuilder line = new StringBuilder();
        for (Object field : fields) {
            line.append(line.length() == 0 ? "" : "\t").append(String.valueOf(field).replaceAll("[\t\r\n]", " "));
        }
        try {
            record.write(line.append('\n').toString().getBytes(StandardCharsets.ISO_8859_1));
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    private static void jdk(int port) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(port), 0);
        server.setExecutor(Executors.newCachedThreadPool());
        server.createContext("/", exchange -> {
            exchange.getRequestBody().readAllBytes();
            note(exchange.getRequestMethod(), exchange.getRequestHeaders().getFirst("Host"), exchange.getRequestURI());
            exchange.sendResponseHeaders(200, 1);
            exchange.getResponseBody().write('x');
            exchange.close();
        });
        server.start();
    }

    private static void netty(int port) throws InterruptedException {
        NioEventLoopGroup group = new NioEventLoopGroup(2);
        new ServerBootstrap().group(group).channel(NioServerSocketChannel.class).childHandler(new ChannelInitializer<SocketChannel>() {
            @Override
            public void initChannel(SocketChannel channel) {
                channel.pipeline().addLast(new HttpServerCodec(), new HttpObjectAggregator(1 << 20), new NettyHandler());
            }
        }).bind(port).sync();
    }

    private static final class NettyHandler extends SimpleChannelInboundHandler<FullHttpRequest> {
        @Override
        protected void channelRead0(ChannelHandlerContext context, FullHttpRequest request) {
            // What cannot be read comes here, too, and is no request.
            if (request.decoderResult().isSuccess()) {
                note(request.method(), request.headers().get("Host"), request.uri());
            }
            var response = new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK, Unpooled.wrappedBuffer(new byte[] {'x'}));
            response.headers().set("Content-Length", "1");
            context.writeAndFlush(response);
        }
    }

    private static void vertx(int port) {
        Vertx.vertx().createHttpServer().requestHandler(request -> request.body().onComplete(body -> {
            note(request.method(), request.authority(), request.uri());
            request.response().end("x");
        })).listen(port, "0.0.0.0");
    }

    private static void pekko(int port) {
        ActorSystem system = ActorSystem.create();
        Http.get(system).newServerAt("0.0.0.0", port).bind((Function<HttpRequest, CompletionStage<HttpResponse>>) request ->
            request.toStrict(10_000, system).thenApply(strict -> {
            note(strict.method().name(), strict.getUri().host(), strict.getUri().path());
            return HttpResponse.create().withEntity("x");
        }));
    }

    private static void grizzly(int port) throws IOException {
        var server = new org.glassfish.grizzly.http.server.HttpServer();
        server.addListener(new NetworkListener("main", "0.0.0.0", port));
        server.getServerConfiguration().addHttpHandler(new HttpHandler() {
            @Override
            public void service(Request request, Response response) throws Exception {
                request.getInputStream().readAllBytes();
                note(request.getMethod(), request.getServerName(), request.getRequestURI());
                response.getWriter().write("x");
            }
        });
        server.start();
    }

    private static void undertow(int port) {
        Undertow.builder().addHttpListener(port, "0.0.0.0").setHandler(new BlockingHandler(exchange -> {
            exchange.getInputStream().readAllBytes();
            note(exchange.getRequestMethod(), exchange.getHostName(), exchange.getRequestURI());
            exchange.getResponseSender().send("x");
        })).build().start();
    }

    private static void undertowProxy(int port, int backend) {
        // Neither its backend's errors nor requests that never end keep others waiting.
        var client = new LoadBalancingProxyClient().setProblemServerRetry(0).setConnectionsPerThread(1000)
            .addHost(URI.create("http://127.0.0.1:" + backend));
        Undertow.builder().setServerOption(UndertowOptions.ENABLE_HTTP2, true).addHttpListener(port, "0.0.0.0")
            .setHandler(ProxyHandler.builder().setProxyClient(client).setMaxRequestTime(5_000).build()).build().start();
    }

    private static void httpcore(int port) throws IOException {
        HttpRequestHandler handler = (request, response, context) -> {
            EntityUtils.consume(((ClassicHttpRequest) request).getEntity());
            note(request.getMethod(), request.getAuthority(), request.getRequestUri());
            response.setEntity(new StringEntity("x"));
        };
        // The filter stands before the router, which knows no host but its own.
        org.apache.hc.core5.http.impl.bootstrap.ServerBootstrap.bootstrap().setListenerPort(port)
            .addFilterAfter(StandardFilter.EXPECT_CONTINUE.name(), "everything", (request, trigger, context, chain) -> {
                var response = new org.apache.hc.core5.http.message.BasicClassicHttpResponse(200);
                try {
                    handler.handle(request, response, context);
                } catch (org.apache.hc.core5.http.HttpException | IOException error) {
                    response.setCode(400);
                }
                trigger.submitResponse(response);
            }).register("*", handler).create().start();
    }
}
