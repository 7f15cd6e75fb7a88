package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func sample() Image {
	return Image{
		Name:       "weirmesh.dev/weir:v1",
		Files:      []File{{Path: "/weir", Data: []byte("binary")}, {Path: "/etc/weir/conf", Data: []byte("x=1"), Mode: 0o644}},
		Folders:    []string{"/tmp"},
		Entrypoint: []string{"/weir"},
		User:       "65532:65532",
		Labels:     map[string]string{"b": "2", "a": "1"},
		Ports:      []string{"4143/tcp"},
	}
}

func write(t *testing.T, im Image) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := Write(&out, im); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// files reads a tar file.
func files(t *testing.T, data []byte) (map[string][]byte, map[string]tar.Header) {
	t.Helper()
	content, headers := map[string][]byte{}, map[string]tar.Header{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return content, headers
		}
		if err != nil {
			t.Fatal(err)
		}
		if content[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		headers[h.Name] = *h
	}
}

// open follows a descriptor, and checks what it says of the blob.
func open(t *testing.T, layout map[string][]byte, d descriptor, into any) []byte {
	t.Helper()
	blob := layout["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
	if digest(blob) != d.Digest || len(blob) != d.Size {
		t.Fatalf("the descriptor %+v does not fit its blob: %s, %d bytes", d, digest(blob), len(blob))
	}
	if into != nil {
		if err := json.Unmarshal(blob, into); err != nil {
			t.Fatal(err)
		}
	}
	return blob
}

func TestImageHoldsWhatItWasGiven(t *testing.T) {
	layout, _ := files(t, write(t, sample()))
	var index, content manifest
	if err := json.Unmarshal(layout["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != "weirmesh.dev/weir:v1" {
		t.Errorf("name %q", got)
	}
	open(t, layout, index.Manifests[0], &content)
	var about config
	open(t, layout, *content.Config, &about)
	if c := about.Config; c.User != "65532:65532" || c.Entrypoint[0] != "/weir" || c.Labels["a"] != "1" || about.Architecture != "amd64" {
		t.Errorf("config %+v", about)
	}
	if _, ok := about.Config.ExposedPorts["4143/tcp"]; !ok {
		t.Errorf("ports %v", about.Config.ExposedPorts)
	}
	zr, err := gzip.NewReader(bytes.NewReader(open(t, layout, content.Layers[0], nil)))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	if digest(layer) != about.RootFS.DiffIDs[0] {
		t.Error("the layer is not the one that the config names")
	}
	data, headers := files(t, layer)
	for name, mode := range map[string]int64{"weir": 0o755, "etc/weir/conf": 0o644, "etc/": 0o755, "etc/weir/": 0o755, "tmp/": 0o1777} {
		if h, ok := headers[name]; !ok || h.Mode != mode || h.Uid != 0 {
			t.Errorf("%s: %v, mode %o, owner %d", name, ok, h.Mode, h.Uid)
		}
	}
	if string(data["weir"]) != "binary" || string(data["etc/weir/conf"]) != "x=1" || len(headers) != 5 {
		t.Errorf("layer holds %v", headers)
	}
}

func TestSameInputGivesTheSameBytes(t *testing.T) {
	first := write(t, sample())
	other := sample()
	other.Files[0], other.Files[1] = other.Files[1], other.Files[0]
	for range 10 {
		if !bytes.Equal(first, write(t, other)) {
			t.Fatal("two images of the same files differ")
		}
	}
	other.Files[0].Data = []byte("x=2")
	if bytes.Equal(first, write(t, other)) {
		t.Fatal("two images of different files are the same")
	}
}

func TestIncompleteImagesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*Image)
		want  string
	}{
		"no tag":      {func(im *Image) { im.Name = "localhost:5000/weir" }, "repository:tag"},
		"no user":     {func(im *Image) { im.User = "" }, "must be a number"},
		"named user":  {func(im *Image) { im.User = "nobody" }, "must be a number"},
		"no program":  {func(im *Image) { im.Entrypoint = nil }, "no entrypoint"},
		"no files":    {func(im *Image) { im.Files = nil }, "no files"},
		"relative":    {func(im *Image) { im.Files[0].Path = "weir" }, "not absolute"},
		"unclean":     {func(im *Image) { im.Files[0].Path = "/a/../weir" }, "not absolute and clean"},
		"twice there": {func(im *Image) { im.Files[1].Path = im.Files[0].Path }, "two files"},
	} {
		im := sample()
		c.spoil(&im)
		if err := Write(io.Discard, im); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestWriteFileLeavesNothingOnFailure(t *testing.T) {
	dir := t.TempDir()
	bad := sample()
	bad.User = ""
	if err := WriteFile(filepath.Join(dir, "a.tar"), bad); err == nil {
		t.Fatal("written")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Fatalf("left %v, %v", left, err)
	}
	if err := WriteFile(filepath.Join(dir, "sub", "a.tar"), sample()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "sub", "a.tar"))
	if err != nil || !bytes.Equal(got, write(t, sample())) {
		t.Fatalf("the file is not what Write writes: %v", err)
	}
}
