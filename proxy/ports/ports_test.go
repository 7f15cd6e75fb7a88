package ports_test

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/proxy/ports"
)

func TestParse(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		got, err := ports.Parse(in)
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		var texts []string
		for _, r := range got {
			texts = append(texts, r.String())
		}
		if s := strings.Join(texts, ","); s != want {
			t.Fatalf("%q: got %q, want %q", in, s, want)
		}
	}
	f("", "")
	f("22", "22")
	f(" 22 , 8000 - 8010,", "22,8000-8010")
	f("1-65535", "1-65535")
	f("7-7", "7")
}

func TestMerge(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		list, err := ports.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, r := range ports.Merge(list) {
			texts = append(texts, r.String())
		}
		if got := strings.Join(texts, ","); got != want {
			t.Fatalf("%q: got %q, want %q", in, got, want)
		}
	}
	f("", "")
	f("3,1,2", "1-3")
	f("1-10,2-3", "1-10")
	f("65535,65534,1,3", "1,3,65534-65535")
	f("5-9,1-5", "1-9")
}

func TestParseRefuses(t *testing.T) {
	f := func(in, wants string) {
		t.Helper()
		if _, err := ports.Parse(in); err == nil || !strings.Contains(err.Error(), wants) {
			t.Fatalf("%q: got %v", in, err)
		}
	}
	f("22,x", `"x"`)
	f("0", `"0"`)
	f("65536", `"65536"`)
	f("9-8", "ends before it begins")
	f("-8", `"-8"`)
	f("8-", `"8-"`)
}

func TestContain(t *testing.T) {
	list := []ports.Range{{From: 22, To: 22}, {From: 8000, To: 8010}}
	for port, want := range map[uint16]bool{21: false, 22: true, 23: false, 7999: false, 8000: true, 8010: true, 8011: false} {
		if got := ports.Contain(list, port); got != want {
			t.Errorf("%d: %t", port, got)
		}
	}
}
