package cluster

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/weirmesh/weir/tools/image"
)

// A GoImage is an image of one Go program of this module.
type GoImage struct {
	// Name is the image's, with its tag: "localhost/testapp:e2e".
	Name string
	// Package is the program's folder in this module: "testapp".
	Package string
	// User is the numeric user that it runs as.
	User string
}

// BuildImage builds a program and writes its image to a tar file.
func (c *Cluster) BuildImage(ctx context.Context, im GoImage, tar string) error {
	dir, err := os.MkdirTemp("", "weir-image-*")
	if err != nil {
		return fmt.Errorf("cannot build the image %s: %w", im.Name, err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	binary := filepath.Join(dir, "binary")
	if err := c.o.build(ctx, program{im.Package, "-s -w"}, binary); err != nil {
		return fmt.Errorf("cannot build the image %s: %w", im.Name, err)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("cannot build the image %s: %w", im.Name, err)
	}
	in := "/" + path.Base(im.Package)
	return image.WriteFile(tar, image.Image{
		Name: im.Name, Files: []image.File{{Path: in, Data: data}}, Folders: []string{"/tmp"}, Entrypoint: []string{in}, User: im.User,
	})
}
