// Command make writes the project's images from binaries that are built already,
// one tar file each. `make images` runs it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/weirmesh/weir/tools/image"
)

// A product is one of the project's images: a static binary, and nothing else.
type product struct {
	name, title string
	// user is numeric, so that runAsNonRoot can be seen to hold.
	user    string
	ports   []string
	folders []string
}

// products are all of them.
func products() []product {
	return []product{
		{name: "weir", title: "Weir's control plane and command line", user: "65532:65532", folders: []string{"/tmp"}},
		// 1337 is whom `weir-proxy init` exempts from redirection. Weir's own
		// init container sets another user, who may set the rules.
		{name: "weir-proxy", title: "Weir's data plane: the sidecar, and its init", user: "1337:1337", ports: []string{"4140/tcp", "4143/tcp", "4191/tcp"}},
		{name: "emojivoto", title: "Weir's sample application", user: "65532:65532", ports: []string{"8080/tcp"}},
	}
}

func main() {
	var bin, out, registry, tag, commit string
	flag.StringVar(&bin, "bin", "", "folder of the binaries")
	flag.StringVar(&out, "out", "", "folder of the images, made if missing")
	flag.StringVar(&registry, "registry", "", "what images' names begin with")
	flag.StringVar(&tag, "tag", "", "tag of the images")
	flag.StringVar(&commit, "commit", "", "commit that the binaries are of")
	flag.Parse()
	var err error
	for _, p := range products() {
		err = errors.Join(err, p.write(bin, out, registry+"/"+p.name+":"+tag, tag, commit))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "make images:", err)
		os.Exit(1)
	}
}

// write writes the image and prints its file, name and size.
func (p product) write(bin, out, name, version, commit string) error {
	data, err := os.ReadFile(filepath.Join(bin, p.name))
	if err != nil {
		return fmt.Errorf("cannot make the image of %s: %w", p.name, err)
	}
	file := filepath.Join(out, p.name+".tar")
	if err := image.WriteFile(file, p.image(data, name, version, commit)); err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	fmt.Printf("%-40s %6.1f MB  %s\n", name, float64(info.Size())/1e6, file)
	return nil
}

func (p product) image(binary []byte, name, version, commit string) image.Image {
	return image.Image{
		Name: name, Arch: runtime.GOARCH, User: p.user, Ports: p.ports, Folders: p.folders,
		Files:      []image.File{{Path: "/" + p.name, Data: binary}},
		Entrypoint: []string{"/" + p.name},
		Labels: map[string]string{
			"org.opencontainers.image.title":       p.name,
			"org.opencontainers.image.description": p.title,
			"org.opencontainers.image.source":      "https://github.com/weirmesh/weir",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     version,
			"org.opencontainers.image.revision":    commit,
		},
	}
}
