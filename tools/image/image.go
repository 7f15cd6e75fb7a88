// Package image writes container images without a container runtime: an OCI image
// layout in a tar file, of one layer, of files that exist already. Weir's images are
// one static binary each and nothing else, which leaves little for a Dockerfile to
// say. The same input gives the same bytes, whatever the machine and the day.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A File is one file of an image.
type File struct {
	// Path is where it is in the image: absolute and clean, "/weir".
	Path string
	// Data is what it holds.
	Data []byte
	// Mode is its permissions; 0 means 0755. Its owner is always root, so that
	// the image's user can't change it.
	Mode int64
}

// An Image is what Write writes.
type Image struct {
	// Name is how container runtimes call it, tag included: "weirmesh.dev/weir:v1".
	Name string
	// Arch is Go's name of the processor; "" means amd64.
	Arch string
	// Files are in the image's one layer, whatever their order here.
	Files []File
	// Folders are made in it: absolute paths, with the mode that /tmp has where
	// it is one called tmp, else 0755.
	Folders []string
	// Entrypoint is the program and its first arguments.
	Entrypoint []string
	// User is UID or UID:GID, in numbers, so that Kubernetes can tell that it is
	// not root. "" is refused: root must be asked for as "0".
	User string
	// Labels are shown by tools that list images; may be nil.
	Labels map[string]string
	// Ports are documentation: "4143/tcp"; may be nil.
	Ports []string
}

// Media types of the OCI image specification.
const (
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
)

// epoch is the time of everything in an image: the true ones would differ with
// each build.
var epoch = time.Unix(0, 0).UTC()

// A descriptor points to a blob.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        *descriptor  `json:"config,omitempty"`
	Layers        []descriptor `json:"layers,omitempty"`
	Manifests     []descriptor `json:"manifests,omitempty"`
}

type config struct {
	Created      string          `json:"created"`
	Architecture string          `json:"architecture"`
	OS           string          `json:"os"`
	Config       containerConfig `json:"config"`
	RootFS       rootFS          `json:"rootfs"`
}

type containerConfig struct {
	User         string              `json:"User"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Entrypoint   []string            `json:"Entrypoint"`
	WorkingDir   string              `json:"WorkingDir"`
	Labels       map[string]string   `json:"Labels,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

// blobs are what an image is made of, by digest.
type blobs map[string][]byte

func (b blobs) put(mediaType string, data []byte) descriptor {
	sum := digest(data)
	b[sum] = data
	return descriptor{MediaType: mediaType, Digest: sum, Size: len(data)}
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Write writes an image as a tar file that containerd, Docker, Podman and skopeo
// read. It errs on an image that is not complete, naming what is missing, and if w
// does.
func Write(w io.Writer, im Image) error {
	if err := im.check(); err != nil {
		return fmt.Errorf("cannot write image %q: %w", im.Name, err)
	}
	layer, err := im.layer()
	if err != nil {
		return fmt.Errorf("cannot write image %q: %w", im.Name, err)
	}
	packed, err := pack(layer)
	if err != nil {
		return fmt.Errorf("cannot write image %q: %w", im.Name, err)
	}
	all := blobs{}
	layers := []descriptor{all.put(typeLayer, packed)}
	settings, err := json.Marshal(im.config(digest(layer)))
	if err != nil {
		return fmt.Errorf("cannot write image %q: %w", im.Name, err)
	}
	about := all.put(typeConfig, settings)
	content, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: typeManifest, Config: &about, Layers: layers})
	if err != nil {
		return fmt.Errorf("cannot write image %q: %w", im.Name, err)
	}
	top := all.put(typeManifest, content)
	top.Platform = &platform{Architecture: im.arch(), OS: "linux"}
	// containerd takes the name from the first, others from the second.
	top.Annotations = map[string]string{
		"io.containerd.image.name":          im.Name,
		"org.opencontainers.image.ref.name": im.Name[strings.LastIndex(im.Name, ":")+1:],
	}
	index, err := json.Marshal(manifest{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{top}})
	if err != nil {
		return fmt.Errorf("cannot write image %q: %w", im.Name, err)
	}
	if err := writeLayout(w, index, all); err != nil {
		return fmt.Errorf("cannot write image %q: %w", im.Name, err)
	}
	return nil
}

// WriteFile writes an image to a file, which it replaces whole or not at all, and
// makes the folder of.
func WriteFile(name string, im Image) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("cannot write image %q: %w", im.Name, err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("cannot write image %q: %w", im.Name, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error counts
		}
	}()
	if err := errors.Join(Write(f, im), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func (im Image) arch() string {
	if im.Arch == "" {
		return "amd64"
	}
	return im.Arch
}

// check names what is missing or wrong.
func (im Image) check() error {
	var problems []error
	if repository, tag, ok := strings.Cut(im.Name[strings.LastIndex(im.Name, "/")+1:], ":"); !ok || repository == "" || tag == "" {
		problems = append(problems, errors.New("the name must be repository:tag"))
	}
	if im.User == "" || strings.Trim(im.User, "0123456789:") != "" {
		problems = append(problems, fmt.Errorf("the user %q must be a number, UID or UID:GID", im.User))
	}
	if len(im.Entrypoint) == 0 {
		problems = append(problems, errors.New("there is no entrypoint"))
	}
	if len(im.Files) == 0 {
		problems = append(problems, errors.New("there are no files"))
	}
	seen := map[string]bool{}
	for _, f := range im.Files {
		if f.Path != path.Clean(f.Path) || !path.IsAbs(f.Path) || f.Path == "/" {
			problems = append(problems, fmt.Errorf("the path %q is not absolute and clean", f.Path))
		}
		if seen[f.Path] {
			problems = append(problems, fmt.Errorf("there are two files %q", f.Path))
		}
		seen[f.Path] = true
	}
	return errors.Join(problems...)
}

// layer is the tar of the files, with the folders that they are in.
func (im Image) layer() ([]byte, error) {
	entries := map[string]tar.Header{}
	data := map[string][]byte{}
	folder := func(name string) {
		for ; name != "/" && name != "."; name = path.Dir(name) {
			mode := int64(0o755)
			if path.Base(name) == "tmp" {
				mode = 0o1777
			}
			entries[name] = tar.Header{Typeflag: tar.TypeDir, Name: name[1:] + "/", Mode: mode}
		}
	}
	for _, name := range im.Folders {
		folder(path.Clean("/" + name))
	}
	for _, f := range im.Files {
		folder(path.Dir(f.Path))
		mode := f.Mode
		if mode == 0 {
			mode = 0o755
		}
		entries[f.Path] = tar.Header{Typeflag: tar.TypeReg, Name: f.Path[1:], Mode: mode, Size: int64(len(f.Data))}
		data[f.Path] = f.Data
	}
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, name := range sorted(entries) {
		header := entries[name]
		header.ModTime, header.Format = epoch, tar.FormatUSTAR
		if err := tw.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := tw.Write(data[name]); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (im Image) config(layer string) config {
	var ports map[string]struct{}
	for _, p := range im.Ports {
		if ports == nil {
			ports = map[string]struct{}{}
		}
		ports[p] = struct{}{}
	}
	return config{
		Created:      epoch.Format(time.RFC3339),
		Architecture: im.arch(),
		OS:           "linux",
		Config: containerConfig{
			User: im.User, Entrypoint: im.Entrypoint, Labels: im.Labels, ExposedPorts: ports, WorkingDir: "/",
		},
		RootFS: rootFS{Type: "layers", DiffIDs: []string{layer}},
	}
}

// pack compresses. Its header holds neither a name nor a time.
func pack(data []byte) ([]byte, error) {
	var out bytes.Buffer
	zw, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := zw.Write(data); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func writeLayout(w io.Writer, index []byte, all blobs) error {
	tw := tar.NewWriter(w)
	put := func(name string, data []byte) error {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: epoch, Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := tw.Write(data)
		return err
	}
	if err := put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := put("index.json", index); err != nil {
		return err
	}
	for _, sum := range sorted(all) {
		if err := put("blobs/sha256/"+strings.TrimPrefix(sum, "sha256:"), all[sum]); err != nil {
			return err
		}
	}
	return tw.Close()
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
