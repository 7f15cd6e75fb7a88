package chart

import (
	"fmt"
	"testing"

	"github.com/weirmesh/weir/deploy/values"
)

func TestX(t *testing.T) {
	o, err := Render(values.Default(), "weir", "v1")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(Text(o)))
}
