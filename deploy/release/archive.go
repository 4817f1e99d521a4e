package main

import (
	"archive/tar"
	"archive/zip"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/apk" // each registers its format
	_ "github.com/goreleaser/nfpm/v2/deb"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

// entry is a file of an archive.
type entry struct {
	name string // in the archive
	from string
	mode int64
}

// entries are a target's files: the program, what it comes with, and nothing of
// the builder's machine.
func (r *release) entries(t target) ([]entry, error) {
	base, source := r.base(t), filepath.Dir(r.deploy)
	list := []entry{
		{base + "/" + filepath.Base(r.binary(t, "")), r.binary(t, ""), 0o755},
		{base + "/LICENSE", filepath.Join(source, "LICENSE"), 0o644},
		{base + "/README.md", filepath.Join(source, "README.md"), 0o644},
		{base + "/CHANGELOG.md", filepath.Join(source, "CHANGELOG.md"), 0o644},
		{base + "/bridge.yaml.sample", filepath.Join(source, "config", "sample.yaml"), 0o644},
	}
	share := filepath.Join(r.out, "build", "share")
	err := filepath.WalkDir(share, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(share, name)
		list = append(list, entry{path.Join(base, filepath.ToSlash(rel)), name, 0o644})
		return err
	})
	if t.os == "linux" {
		for _, name := range []string{"bridge8x8.service", "bridge8x8.env"} {
			list = append(list, entry{base + "/systemd/" + name, filepath.Join(r.deploy, "systemd", name), 0o644})
		}
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return list, err
}

// archive packs a target's files: zip for Windows, else tar.gz.
func (r *release) archive(t target) (name string, err error) {
	list, err := r.entries(t)
	if err != nil {
		return "", err
	}
	if t.os == "windows" {
		name = r.base(t) + ".zip"
		return name, r.writeFile(name, func(w io.Writer) error { return writeZip(w, list, r.built) })
	}
	name = r.base(t) + ".tar.gz"
	return name, r.writeFile(name, func(w io.Writer) error {
		zipped := gzip.NewWriter(w)
		if err := writeTar(zipped, list, r.built); err != nil {
			return err
		}
		return zipped.Close()
	})
}

func (r *release) writeFile(name string, write func(io.Writer) error) (err error) {
	f, err := os.Create(filepath.Join(r.out, name))
	if err != nil {
		return err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
	}()
	return write(f)
}

func writeTar(w io.Writer, list []entry, built time.Time) error {
	archive := tar.NewWriter(w)
	for _, e := range list {
		content, err := os.ReadFile(e.from)
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{
			Name: e.name, Mode: e.mode, Size: int64(len(content)), ModTime: built, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR,
		}); err != nil {
			return err
		}
		if _, err := archive.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}

func writeZip(w io.Writer, list []entry, built time.Time) error {
	archive := zip.NewWriter(w)
	for _, e := range list {
		content, err := os.ReadFile(e.from)
		if err != nil {
			return err
		}
		header := &zip.FileHeader{Name: e.name, Method: zip.Deflate, Modified: built}
		header.SetMode(fs.FileMode(e.mode))
		f, err := archive.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := f.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}

// packages makes the deb, rpm and apk that nfpm.yaml describes.
func (r *release) packages(t target) ([]string, error) {
	values := map[string]string{
		"ARCH": t.arch, "VERSION": r.version, "BINARY": r.binary(t, ""), "SHARE": filepath.Join(r.out, "build", "share"),
	}
	// nfpm looks for what the file names from where the process is.
	back, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	if err := os.Chdir(r.deploy); err != nil {
		return nil, err
	}
	defer func() { _ = os.Chdir(back) }()
	var names []string
	for _, format := range []string{"deb", "rpm", "apk"} {
		config, err := nfpm.ParseFileWithEnvMapping("nfpm.yaml", func(name string) string { return values[name] })
		if err != nil {
			return nil, fmt.Errorf("nfpm.yaml: %w", err)
		}
		info, err := config.Get(format)
		if err != nil {
			return nil, fmt.Errorf("nfpm.yaml: %w", err)
		}
		info.MTime = r.built
		for _, script := range []*string{&info.Scripts.PostInstall, &info.Scripts.PreRemove} {
			if *script, err = r.dated(*script); err != nil {
				return nil, err
			}
		}
		for _, c := range info.Contents {
			if c.FileInfo != nil {
				c.FileInfo.MTime = r.built
			}
		}
		info = nfpm.WithDefaults(info)
		packager, err := nfpm.Get(format)
		if err != nil {
			return nil, err
		}
		name := r.base(t) + "." + format
		if err := r.writeFile(name, func(w io.Writer) error { return packager.Package(info, w) }); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		names = append(names, name)
	}
	return names, nil
}

// dated is a copy of a file of the source that bears the release's time: a
// script keeps its file's in an apk, and a checkout makes files anew.
func (r *release) dated(name string) (string, error) {
	content, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	copied := filepath.Join(r.out, "build", filepath.Base(name))
	if err := os.WriteFile(copied, content, 0o755); err != nil { //nolint:gosec // a script
		return "", err
	}
	return copied, os.Chtimes(copied, r.built, r.built)
}

// The parts of CycloneDX 1.6 that tell which modules a program is made of.
type (
	cycloneDX struct {
		BOMFormat   string      `json:"bomFormat"`
		SpecVersion string      `json:"specVersion"`
		Version     int         `json:"version"`
		Metadata    metadata    `json:"metadata"`
		Components  []component `json:"components"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Type    string `json:"type"`
		Name    string `json:"name"`
		Version string `json:"version"`
		PURL    string `json:"purl"`
		Hashes  []hash `json:"hashes,omitempty"`
	}
	hash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
)

// sbom writes what the built program itself says that it is made of, and not
// what go.mod would permit.
func (r *release) sbom(t target, tag string) (string, error) {
	info, err := buildinfo.ReadFile(r.binary(t, tag))
	if err != nil {
		return "", err
	}
	sum, err := fileSum(r.binary(t, tag))
	if err != nil {
		return "", err
	}
	of := func(kind, name, version string) component {
		return component{Type: kind, Name: name, Version: version, PURL: "pkg:golang/" + name + "@" + version}
	}
	main := of("application", info.Main.Path, r.version)
	main.Hashes = []hash{{"SHA-256", sum}}
	doc := cycloneDX{
		BOMFormat: "CycloneDX", SpecVersion: "1.6", Version: 1,
		Metadata:   metadata{Timestamp: r.built.Format(time.RFC3339), Component: main},
		Components: []component{of("library", "std", strings.TrimPrefix(info.GoVersion, "go"))},
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		doc.Components = append(doc.Components, of("library", m.Path, m.Version))
	}
	body, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return "", err
	}
	name := strings.TrimSuffix(r.base(t)+"_"+tag, "_") + ".cdx.json"
	return name, r.writeFile(name, func(w io.Writer) error {
		_, err := w.Write(append(body, '\n'))
		return err
	})
}

// checksums writes checksums.txt, for sha256sum -c.
func (r *release) checksums(files []string) error {
	slices.Sort(files)
	return r.writeFile("checksums.txt", func(w io.Writer) error {
		for _, name := range files {
			sum, err := fileSum(filepath.Join(r.out, name))
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "%s  %s\n", sum, name)
		}
		return nil
	})
}

func fileSum(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}
