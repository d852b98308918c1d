// The HTTP servers of Go that read requests with a parser of their own: `peers NAME PORT RECORD`.
//
// Each reads the whole body, answers 200, and adds to the file RECORD a line of what it has read:
// method, host and target, with a tab between them.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/cloudwego/hertz/pkg/app"
	hertz "github.com/cloudwego/hertz/pkg/app/server"
	"github.com/cloudwego/hertz/pkg/common/hlog"
	"github.com/valyala/fasthttp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

var record *os.File

func main() {
	name, port := os.Args[1], os.Args[2]
	var err error
	record, err = os.OpenFile(os.Args[3], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		err = serve(name, "0.0.0.0:"+port)
	}
	fmt.Fprintln(os.Stderr, name, err)
	os.Exit(1)
}

func serve(name, address string) error {
	standard := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		note(r.Method, r.Host, r.RequestURI)
		_, _ = io.WriteString(w, "x")
	})
	switch name {
	case "net-http":
		return http.ListenAndServe(address, standard)
	case "h2c":
		return http.ListenAndServe(address, h2c.NewHandler(standard, &http2.Server{}))
	case "fasthttp":
		return fasthttp.ListenAndServe(address, func(c *fasthttp.RequestCtx) {
			note(string(c.Method()), string(c.Host()), string(c.RequestURI()))
			c.SetBodyString("x")
		})
	case "hertz":
		hlog.SetOutput(io.Discard)
		server := hertz.New(hertz.WithHostPorts(address), hertz.WithDisablePrintRoute(true))
		server.NoRoute(func(_ context.Context, c *app.RequestContext) {
			note(string(c.Method()), string(c.Host()), string(c.Request.RequestURI()))
			c.String(200, "x")
		})
		return server.Run()
	}
	return fmt.Errorf("there is no such server")
}

func note(fields ...string) {
	for i, field := range fields {
		fields[i] = strings.NewReplacer("\t", " ", "\n", " ", "\r", " ").Replace(field)
	}
	_, _ = record.WriteString(strings.Join(fields, "\t") + "\n")
}
