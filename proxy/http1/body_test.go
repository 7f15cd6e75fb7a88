package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
)

func TestChunked(t *testing.T) {
	for in, want := range map[string]struct {
		n     int // bytes of the body; -1: not whole
		fault *fault
	}{
		"0\r\n\r\n":                                {5, nil},
		"0\r\n\r\nGET":                             {5, nil},
		"5\r\nhello\r\n0\r\n\r\n":                  {15, nil},
		"00005\r\nhello\r\n000\r\n\r\n":            {21, nil},
		"A\r\n0123456789\r\n0;x=y\r\nT: v\r\n\r\n": {30, nil},
		"1;a=\"\t;\"\r\nx\r\n0\r\n\r\n":            {18, nil},
		"5\r\nhel":                                 {-1, nil},
		"5\r\nhello0\r\n\r\n":                      {0, faultChunkEnd},
		"5\r\nhello\n0\r\n\r\n":                    {0, faultChunkEnd},
		"5\r\nhello\r0\r\n\r\n":                    {0, faultChunkEnd},
		"\r\n":                                     {0, faultChunkSize},
		";x\r\n":                                   {0, faultChunkSize},
		"5 \r\nhello":                              {0, faultChunkSize},
		" 5\r\nhello":                              {0, faultChunkSize},
		"5 ;x\r\nhello":                            {0, faultChunkSize},
		"5\nhello":                                 {0, faultChunkSize},
		"5\rhello":                                 {0, faultChunkSize},
		"0x5\r\nhello":                             {0, faultChunkSize},
		"+5\r\nhello":                              {0, faultChunkSize},
		"-5\r\nhello":                              {0, faultChunkSize},
		"5;x\ny\r\nhello":                          {0, faultChunkSize},
		"5;x\x00\r\nhello":                         {0, faultChunkSize},
		"ffffffffffffffff5\r\nhello":               {0, faultChunkSize},
		"0000000000000005\r\nhello":                {0, faultChunkSize},
		"5;" + strings.Repeat("x", 5000):           {0, faultChunkLine},
		"0\r\nA : b\r\n\r\n":                       {0, faultTrailer},
		"0\r\n A: b\r\n\r\n":                       {0, faultTrailer},
		"0\r\nA: b\n\r\n":                          {0, faultTrailer},
		"0\r\nA: b\r\r\n":                          {0, faultTrailer},
		"0\r\n: b\r\n\r\n":                         {0, faultTrailer},
		"0\r\n\rX":                                 {0, faultTrailer},
		"0\r\n\n":                                  {0, faultTrailer},
		"0\r\nContent-Length: 5\r\n\r\n":           {0, faultTrailerField},
		"0\r\ntransfer-ENCODING: chunked\r\n\r\n":  {0, faultTrailerField},
		"0\r\nHost: x\r\n\r\n":                     {0, faultTrailerField},
		"0\r\nA: " + strings.Repeat("x", 5000):     {0, faultTrailerSize},
	} {
		c := chunks{limit: testLimit}
		n, f := c.scan([]byte(in))
		if f == nil && c.state != chunkDone {
			n = -1
		}
		if f != want.fault || f == nil && n != want.n {
			t.Errorf("%q: got %d, %v; want %d, %v", in, n, f, want.n, want.fault)
		}
	}
}

// FuzzChunked splits a body in two anywhere and holds that the scanner comes
// to the same, and that what it takes for a body net/http does too.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("5;a=b\r\nhello\r\n0\r\nT: v\r\n\r\nGET"), 7)
	f.Add([]byte("0\r\n\r\n"), 2)
	f.Add([]byte("fffffffffffffff\r\nx"), 1)
	f.Fuzz(func(t *testing.T, p []byte, cut int) {
		one := chunks{limit: testLimit}
		n, fault1 := one.scan(p)
		cut = min(max(cut, 0), len(p))
		two := chunks{limit: testLimit}
		m, fault2 := two.scan(p[:cut])
		if fault2 == nil && two.state != chunkDone {
			var more int
			more, fault2 = two.scan(p[cut:])
			m += more
		}
		if n != m || fault1 != fault2 || one != two {
			t.Fatalf("at once %d, %v, %+v; cut at %d: %d, %v, %+v", n, fault1, one, cut, m, fault2, two)
		}
		if fault1 != nil || one.state != chunkDone {
			return
		}
		// net/http's reader stops before the trailers.
		body, err := io.ReadAll(httputil.NewChunkedReader(bufio.NewReader(bytes.NewReader(p[:n]))))
		if err != nil && !strings.Contains(err.Error(), "excess") && !strings.Contains(err.Error(), "non-data") {
			t.Fatalf("net/http refuses %q: %v", p[:n], err)
		}
		if len(body) > n {
			t.Fatalf("net/http reads %d bytes of %d", len(body), n)
		}
	})
}
