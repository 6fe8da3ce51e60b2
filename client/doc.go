// Package client is Bulkhead's Go client: sandboxes, the processes and files in
// them, and code run in them, over HTTP.
//
//	c, err := client.New(client.Config{BaseURL: "https://bulkhead.example", APIKey: key})
//	sb, err := c.Create(ctx, bulkhead.CreateRequest{Template: "code-interpreter-v1"})
//	defer sb.Kill(context.WithoutCancel(ctx))
//	run, err := sb.RunCode(ctx, "1+1", client.CodeOptions{})
//	fmt.Println(run.Text()) // 2
//
// # Two planes
//
// Requests about sandboxes go to [Config.BaseURL]. Requests to a sandbox go to
// [Config.SandboxURL], the same address unless set, and name the sandbox and its
// port in headers, so that no wildcard name has to resolve. [Sandbox.PortURL]
// gives the address that a browser can open, when the server has such names.
//
// # Errors
//
// Every failure that is not the end of the caller's own context is a
// [*bulkhead.Error]; [bulkhead.CodeOf] tells what kind. A server that could not
// be reached at all satisfies errors.Is(err, [ErrUnreachable]). A program that
// fails is not an error: it is a [bulkhead.End] with its cause, or the Err field
// of an [Execution].
//
// # Retries
//
// A request is repeated, at most [Config.Tries] times, only where that cannot do
// a thing twice: when the server refused it with Retry-After (429, 503), when it
// never left this host, and, for requests that only read or delete, when the
// connection broke or a gateway answered for the server. Requests to a sandbox
// are never repeated.
//
// A Client and its Sandboxes may be used by any number of goroutines.
package client
