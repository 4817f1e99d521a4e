package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is who the program is in the image: nobody that any machine knows.
const user = 65532

// image puts the image together without Docker: for each Linux target one layer
// on nothing, with what the last stage of the Dockerfile has; a test compares.
// It is an OCI layout in a tar file, which `docker load`, podman, skopeo and
// crane read.
func (r *release) image() (string, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	found := false
	for _, t := range r.targets {
		if t.os != "linux" {
			continue
		}
		found = true
		one, err := r.imageOf(t)
		if err != nil {
			return "", fmt.Errorf("image for %s: %w", t, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: one, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: t.os, Architecture: t.arch}},
		})
	}
	if !found {
		return "", nil
	}
	dir := filepath.Join(r.out, "build", "image")
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return "", err
	}
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": r.version})); err != nil {
		return "", err
	}
	var list []entry
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		list = append(list, entry{filepath.ToSlash(rel), name, 0o644})
		return err
	})
	if err != nil {
		return "", err
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	name := "bridge8x8_" + strings.TrimPrefix(r.version, "v") + "_image.tar"
	return name, r.writeFile(name, func(w io.Writer) error { return writeTar(w, list, r.built) })
}

func (r *release) imageOf(t target) (v1.Image, error) {
	layer, err := r.layer(t)
	if err != nil {
		return nil, err
	}
	one, err := mutate.Append(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), mutate.Addendum{
		Layer: layer, MediaType: types.OCILayer, History: v1.History{CreatedBy: "deploy/release", Created: v1.Time{Time: r.built}},
	})
	if err != nil {
		return nil, err
	}
	config, err := one.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = t.os, t.arch, v1.Time{Time: r.built}
	config.Config = v1.Config{
		User:         fmt.Sprintf("%d:%d", user, user),
		Env:          []string{"BRIDGE_CONFIG=/etc/bridge8x8/bridge.yaml", "BRIDGE_DATA_DIR=/data"},
		Entrypoint:   []string{"/bridge8x8"},
		Cmd:          []string{"serve"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}, "9090/tcp": {}},
		StopSignal:   "SIGTERM",
		Healthcheck: &v1.HealthConfig{
			Test: []string{"CMD", "/bridge8x8", "health"}, Interval: 10e9, Timeout: 3e9, StartPeriod: 10e9, Retries: 3,
		},
		Labels: map[string]string{
			"org.opencontainers.image.title":       "bridge8x8",
			"org.opencontainers.image.description": "CloudEvents in, 8x8 actions run once, outcomes back on the bus",
			"org.opencontainers.image.source":      "https://github.com/bridge8x8/bridge8x8",
			"org.opencontainers.image.licenses":    "Apache-2.0",
			"org.opencontainers.image.version":     r.version,
			"org.opencontainers.image.revision":    r.revision,
			"org.opencontainers.image.created":     r.built.Format("2006-01-02T15:04:05Z07:00"),
		},
	}
	return mutate.ConfigFile(one, config)
}

// layer is the only one: the program (slim), the CA certificates, and a folder for data.
func (r *release) layer(t target) (v1.Layer, error) {
	roots, err := os.ReadFile(r.roots)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("-roots: %w; install ca-certificates, or name another file", err)
	}
	if err != nil {
		return nil, fmt.Errorf("-roots: %w", err)
	}
	program, err := os.ReadFile(r.binary(t, slim))
	if err != nil {
		return nil, err
	}
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	add := func(name string, kind byte, mode int64, owner int, body []byte) {
		header := &tar.Header{
			Name: name, Typeflag: kind, Mode: mode, Uid: owner, Gid: owner, Size: int64(len(body)), ModTime: r.built, Format: tar.FormatUSTAR,
		}
		if e := archive.WriteHeader(header); e != nil {
			err = errors.Join(err, e)
			return
		}
		_, e := archive.Write(body)
		err = errors.Join(err, e)
	}
	for _, dir := range []string{"etc/", "etc/ssl/", "etc/ssl/certs/"} {
		add(dir, tar.TypeDir, 0o755, 0, nil)
	}
	add("etc/ssl/certs/ca-certificates.crt", tar.TypeReg, 0o644, 0, roots)
	add("bridge8x8", tar.TypeReg, 0o755, 0, program)
	add("data/", tar.TypeDir, 0o755, user, nil)
	if err := errors.Join(err, archive.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}
