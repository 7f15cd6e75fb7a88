package client

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Who gives the address of the HTTP API, or of something else, is told which it
// should be, not what a parser of frames thought of the answer.
func TestDialOfAnotherPort(t *testing.T) {
	f := func(name, addr string) {
		t.Helper()
		_, err := Dial(t.Context(), addr)
		if err == nil || !strings.Contains(err.Error(), addr+": what answers there does not speak gRPC") || !strings.Contains(err.Error(), "8085") || strings.Contains(err.Error(), "frame") {
			t.Errorf("%s: %v", name, err)
		}
	}
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	f("HTTP", web.Listener.Addr().String())
}
