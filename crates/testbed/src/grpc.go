// A gRPC server and client of Go's library, for tests: bytes in, bytes out, no schema.
//
//	grpc serve PORT NAME     prints a line when it listens
//	grpc call HOST:PORT      many calls over one connection; its output is one line of JSON, how often
//	                         each server answered. It fails when a call does.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	service = "/testbed.Peer/"
	largest = 64 << 20
	// Not in ASCII, so that it is sent in percent-encoding.
	message = "on purpose: ü%"
)

// Messages are bytes.
type codec struct{}

func (codec) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }

func (codec) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}

func (codec) Name() string   { return "proto" }
func (codec) String() string { return "proto" }

// The server.

type peer interface{}

// Sends the message back, its own name in a header, and the caller's metadata as trailers.
func echo(ctx context.Context, name string, in []byte) ([]byte, error) {
	asked, _ := metadata.FromIncomingContext(ctx)
	back := metadata.MD{}
	for _, key := range []string{"x-text", "x-data-bin"} {
		back.Append(key, asked.Get(key)...)
	}
	if err := grpc.SetHeader(ctx, metadata.Pairs("served-by", name)); err != nil {
		return nil, err
	}
	return in, grpc.SetTrailer(ctx, back)
}

func fail(_ context.Context, _ string, in []byte) ([]byte, error) {
	code, err := strconv.Atoi(string(in))
	if err != nil {
		return nil, err
	}
	return nil, status.Error(codes.Code(code), message)
}

func hang(ctx context.Context, _ string, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

func chat(_ interface{}, stream grpc.ServerStream) error {
	for {
		var in []byte
		if err := stream.RecvMsg(&in); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(&in); err != nil {
			return err
		}
	}
}

type answer func(ctx context.Context, name string, in []byte) ([]byte, error)

func method(name string, answer answer) grpc.MethodDesc {
	handle := func(
		server interface{}, ctx context.Context, decode func(interface{}) error,
		_ grpc.UnaryServerInterceptor,
	) (interface{}, error) {
		var in []byte
		if err := decode(&in); err != nil {
			return nil, err
		}
		out, err := answer(ctx, server.(string), in)
		return &out, err
	}
	return grpc.MethodDesc{MethodName: name, Handler: handle}
}

func serve(port, name string) error {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	server := grpc.NewServer(
		grpc.CustomCodec(codec{}), grpc.MaxRecvMsgSize(largest), grpc.MaxConcurrentStreams(100))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "testbed.Peer",
		HandlerType: (*peer)(nil),
		Methods:     []grpc.MethodDesc{method("Echo", echo), method("Fail", fail), method("Hang", hang)},
		Streams: []grpc.StreamDesc{
			{StreamName: "Chat", Handler: chat, ServerStreams: true, ClientStreams: true},
		},
	}, name)
	fmt.Println("listening")
	return server.Serve(listener)
}

// The client.

type client struct {
	connection *grpc.ClientConn
	servers    map[string]int
	lock       sync.Mutex
}

func check(what string, holds bool, more ...interface{}) {
	if !holds {
		fmt.Fprintln(os.Stderr, what, fmt.Sprint(more...))
		os.Exit(1)
	}
}

func within(limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}

func (c *client) call(
	ctx context.Context, method string, in []byte, options ...grpc.CallOption,
) ([]byte, error) {
	var out []byte
	err := c.connection.Invoke(ctx, service+method, &in, &out, options...)
	return out, err
}

// Runs something many times at once.
func parallel(times int, run func(number int)) {
	var group sync.WaitGroup
	group.Add(times)
	for number := 0; number < times; number++ {
		go func(number int) {
			defer group.Done()
			run(number)
		}(number)
	}
	group.Wait()
}

// Calls of many sizes, each with metadata of its own that shall come back as trailers.
func (c *client) echoes(number int) {
	random := rand.New(rand.NewSource(int64(number)))
	for call := 0; call < 40; call++ {
		in := make([]byte, random.Intn(1<<uint(random.Intn(17))))
		random.Read(in)
		text, data := fmt.Sprintf("%d-%d", number, call), string(in[:len(in)%50])
		ctx, cancel := within(30 * time.Second)
		ctx = metadata.AppendToOutgoingContext(ctx, "x-text", text, "x-data-bin", data)
		var head, trailer metadata.MD
		out, err := c.call(ctx, "Echo", in, grpc.Header(&head), grpc.Trailer(&trailer))
		cancel()
		check("Echo:", err == nil && bytes.Equal(in, out), err, " ", len(in), " ", len(out))
		back := append(trailer.Get("x-text"), trailer.Get("x-data-bin")...)
		check("trailers:", len(back) == 2 && back[0] == text && back[1] == data, trailer)
		c.lock.Lock()
		c.servers[head.Get("served-by")[0]]++
		c.lock.Unlock()
	}
}

func (c *client) failures() {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		_, err := c.call(context.Background(), "Fail", []byte(strconv.Itoa(int(code))))
		check("Fail:", status.Code(err) == code && status.Convert(err).Message() == message, err)
	}
	_, err := c.call(context.Background(), "Nothing", nil)
	check("Nothing:", status.Code(err) == codes.Unimplemented, err)
	for times := 0; times < 10; times++ {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(5*time.Millisecond, cancel)
		_, err = c.call(ctx, "Hang", nil)
		check("cancelled:", status.Code(err) == codes.Canceled, err)
	}
	// Who is first, the client or the proxy, is not said.
	ctx, cancel := within(50 * time.Millisecond)
	_, err = c.call(ctx, "Hang", nil)
	cancel()
	late := status.Code(err) == codes.DeadlineExceeded || status.Code(err) == codes.Unavailable
	check("late:", late, err)
}

// Sizes around those of frames and windows.
func (c *client) sizes() {
	for _, size := range []int{0, 1, 16378, 16379, 16380, 65529, 65530, 65535, 1 << 20, 20 << 20} {
		in := bytes.Repeat([]byte{byte(size)}, size)
		out, err := c.call(context.Background(), "Echo", in, grpc.MaxCallRecvMsgSize(largest))
		check("size:", err == nil && bytes.Equal(in, out), size, " ", err)
	}
}

// A stream both ways at once.
func (c *client) chat() {
	const messages = 100
	ctx, cancel := within(30 * time.Second)
	defer cancel()
	both := &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := c.connection.NewStream(ctx, both, service+"Chat")
	check("Chat:", err == nil, err)
	go func() {
		for number := 0; number < messages; number++ {
			out := bytes.Repeat([]byte{byte(number)}, number*37)
			err := stream.SendMsg(&out)
			check("sending:", err == nil, err)
		}
		err := stream.CloseSend()
		check("half-closing:", err == nil, err)
	}()
	for number := 0; ; number++ {
		var in []byte
		err := stream.RecvMsg(&in)
		if err == io.EOF {
			check("messages:", number == messages, number)
			return
		}
		check("receiving:", err == nil && len(in) == number*37, number, " ", err)
	}
}

func call(to string) error {
	connection, err := grpc.Dial(
		to, grpc.WithInsecure(), grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{})))
	if err != nil {
		return err
	}
	c := &client{connection: connection, servers: map[string]int{}}
	parallel(100, c.echoes)
	c.failures()
	c.sizes()
	parallel(20, func(int) { c.chat() })
	return json.NewEncoder(os.Stdout).Encode(c.servers)
}

func main() {
	var err error
	switch arguments := os.Args[1:]; {
	case len(arguments) == 3 && arguments[0] == "serve":
		err = serve(arguments[1], arguments[2])
	case len(arguments) == 2 && arguments[0] == "call":
		err = call(arguments[1])
	default:
		err = fmt.Errorf("usage: grpc serve PORT NAME | grpc call HOST:PORT")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
