package conformance

import (
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// interopCases are all of grpc-go's interoperability client but those that
// need somebody's credentials, and those that its own server does not pass
// without proxies either (pick_first_unary, orca_per_rpc, orca_oob).
var interopCases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response",
	"status_code_and_message", "special_status_message", "custom_metadata",
	"unimplemented_method", "unimplemented_service", "rpc_soak", "channel_soak",
}

// TestGRPCInterop runs grpc-go's interoperability client against its server
// through two proxies.
func TestGRPCInterop(t *testing.T) {
	client := tool(t, "client")
	server := freeAddr(t)
	_, port, _ := net.SplitHostPort(server)
	start(t, tool(t, "server"), "-port="+port)
	eventually(t, func() string {
		conn, err := net.Dial("tcp", server)
		if err != nil {
			return err.Error()
		}
		_ = conn.Close()
		return ""
	})
	out, in := pair(t, server)
	_, port, _ = net.SplitHostPort(out.addr)
	for _, name := range interopCases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			said, err := exec.CommandContext(ctx, client, "-server_host=127.0.0.1", "-server_port="+port, "-use_tls=false",
				"-test_case="+name, "-soak_iterations=20", "-soak_num_threads=2", "-soak_overall_timeout_seconds=60",
				"-soak_per_iteration_max_acceptable_latency_ms=30000").CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, said)
			}
		})
	}
	for _, p := range []*proxy{out, in} {
		if seen := p.metrics(); !strings.Contains(seen, `protocol="http/2"`) {
			t.Errorf("the calls did not pass as HTTP/2:\n%s", seen)
		}
	}
}
