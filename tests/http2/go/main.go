// Clients and servers of HTTP/2 without TLS: net/http and gRPC.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: peers server|grpc-server PORT, peers client|grpc-client HOST:PORT COUNT")
	}
	switch os.Args[1] {
	case "server":
		log.Fatal(server(os.Args[2]))
	case "grpc-server":
		log.Fatal(grpcServer(os.Args[2]))
	case "client":
		client(os.Args[2], count())
	case "grpc-client":
		grpcClient(os.Args[2], count())
	}
}

func count() int {
	count, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	return count
}

func priorKnowledge() *http.Protocols {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return protocols
}

// Answers what it was sent.
func server(port string) error {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %d", r.Method, len(body))
	})
	return (&http.Server{Addr: ":" + port, Handler: handler, Protocols: priorKnowledge()}).ListenAndServe()
}

func client(address string, count int) {
	client := http.Client{Transport: &http.Transport{Protocols: priorKnowledge()}}
	for n := range count {
		response, err := request(&client, "http://"+address+"/", n)
		if err != nil {
			fmt.Println(err)
			continue
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		fmt.Println(response.StatusCode, response.Proto)
	}
}

// Every fifth request has a body.
func request(client *http.Client, url string, n int) (*http.Response, error) {
	if n%5 == 0 {
		return client.Post(url, "text/plain", strings.NewReader(strings.Repeat("x", 100*n)))
	}
	return client.Get(url)
}

func grpcServer(port string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	return server.Serve(listener)
}

func grpcClient(address string, count int) {
	channel, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	client := grpc_health_v1.NewHealthClient(channel)
	for range count {
		answer, err := client.Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})
		fmt.Println(answer.GetStatus(), err)
	}
}
