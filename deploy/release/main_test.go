package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

const (
	testVersion = "v1.2.3-test.1"
	testEpoch   = "1767225600" // 2026-01-01
	// The program with everything, and as it is in the image.
	maxProgram, maxSlim = 40_000_000, 24_000_000
	// What becomes of the image where it is pulled: its program and the CA certificates.
	maxImage = 30_000_000
)

// made is one release for this machine, which the tests look at.
func made(t *testing.T, out string) release {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", testEpoch)
	roots := filepath.Join(t.TempDir(), "roots.crt")
	if err := os.WriteFile(roots, []byte("no certificates, but a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := release{say: io.Discard, flags: []string{"-buildvcs=false"}} // not -trimpath: the other tests' cache has the rest
	err := r.parse(t.Context(), []string{"-version", testVersion, "-source", "..", "-out", out, "-roots", roots, "-targets", "linux/" + runtime.GOARCH})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.make(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRelease(t *testing.T) { //nolint:paralleltest // it sets the environment
	r := made(t, t.TempDir())
	linux := target{"linux", runtime.GOARCH}
	base := filepath.Join(r.out, r.base(linux))
	t.Run("checksums", func(t *testing.T) { checkSums(t, r) })
	t.Run("archive", func(t *testing.T) { checkArchive(t, base+".tar.gz", filepath.Base(base)) })
	t.Run("sizes", func(t *testing.T) {
		checkSize(t, r.binary(linux, ""), maxProgram)
		checkSize(t, r.binary(linux, slim), maxSlim)
	})
	t.Run("slim", func(t *testing.T) { checkSlim(t, r.binary(linux, slim)) })
	t.Run("SBOM", func(t *testing.T) {
		checkSBOM(t, base+".cdx.json", true)
		checkSBOM(t, base+"_slim.cdx.json", false)
	})
	t.Run("deb", func(t *testing.T) { checkDeb(t, base+".deb") })
	t.Run("rpm", func(t *testing.T) { checkRPM(t, base+".rpm") })
	t.Run("apk", func(t *testing.T) { checkAPK(t, base+".apk") })
	t.Run("man pages", func(t *testing.T) { checkMan(t, filepath.Join(r.out, "build", "share", "man", "man1")) })
	t.Run("image", func(t *testing.T) { checkImage(t, r) })
	t.Run("the same again", func(t *testing.T) {
		again := made(t, t.TempDir())
		if a, b := text(t, filepath.Join(r.out, "checksums.txt")), text(t, filepath.Join(again.out, "checksums.txt")); a != b {
			t.Errorf("the same source gave other bytes:\n%s\n%s", a, b)
		}
	})
}

func TestReleaseRefuses(t *testing.T) {
	t.Parallel()
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args []string
		want string
	}{
		"no version":     {[]string{"-version", "1"}, "write it like v1.2.3"},
		"no platform":    {[]string{"-targets", "linux"}, "write it like linux/amd64"},
		"an old release": {[]string{"-out", full}, "is not empty"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := run(t.Context(), test.args, io.Discard); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func text(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func checkSums(t *testing.T, r release) {
	t.Helper()
	listed := map[string]bool{"checksums.txt": true, "build": true}
	for line := range strings.Lines(text(t, filepath.Join(r.out, "checksums.txt"))) {
		want, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if got, err := fileSum(filepath.Join(r.out, name)); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", name, got, err, want)
		}
		listed[name] = true
	}
	entries, err := os.ReadDir(r.out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !listed[e.Name()] {
			t.Errorf("%s has no checksum", e.Name())
		}
	}
	if len(listed) != 2+7 { // archive, two SBOMs, three packages, image
		t.Errorf("%d files", len(listed))
	}
}

// untar reads a tar into a folder, or only lists it where that is "".
func untar(t *testing.T, from io.Reader, dir string) map[string]*tar.Header {
	t.Helper()
	headers := map[string]*tar.Header{}
	for archive := tar.NewReader(from); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return headers
		}
		if err != nil {
			t.Fatal(err)
		}
		headers[strings.TrimPrefix(strings.TrimPrefix(h.Name, "./"), "/")] = h
		if dir == "" {
			continue
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var content []byte
			if content, err = io.ReadAll(archive); err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, fs.FileMode(h.Mode)))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// shipped is what every package installs.
var shipped = []string{
	"usr/bin/bridge8x8", "usr/lib/systemd/system/bridge8x8.service", "etc/bridge8x8/bridge8x8.env", "usr/share/doc/bridge8x8/bridge.yaml",
	"usr/share/man/man1/bridge8x8-serve.1", "usr/share/bash-completion/completions/bridge8x8", "usr/share/zsh/vendor-completions/_bridge8x8",
	"usr/share/fish/vendor_completions.d/bridge8x8.fish",
}

func unzip(t *testing.T, name string) io.Reader {
	t.Helper()
	zipped, err := gzip.NewReader(bytes.NewReader([]byte(text(t, name))))
	if err != nil {
		t.Fatal(err)
	}
	return zipped
}

func checkArchive(t *testing.T, name, base string) {
	t.Helper()
	dir := t.TempDir()
	headers := untar(t, unzip(t, name), dir)
	for _, want := range []string{"bridge8x8", "LICENSE", "README.md", "bridge.yaml.sample", "man/man1/bridge8x8.1", "completions/_bridge8x8", "systemd/bridge8x8.service"} {
		if h := headers[base+"/"+want]; h == nil || h.ModTime.Unix() != 1767225600 || h.Uid != 0 || h.Uname != "" {
			t.Errorf("%s: %+v", want, h)
		}
	}
	checkVersion(t, filepath.Join(dir, base, "bridge8x8"))
}

func checkVersion(t *testing.T, program string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, "version").CombinedOutput()
	if want := "bridge8x8 " + testVersion; err != nil || strings.TrimSpace(string(out)) != want {
		t.Errorf("%s version: %v, %q, want %q", program, err, out, want)
	}
}

// checkSize keeps programs small. What makes one large is most often a package
// that finds methods by name, such as text/template: it disables the linker's
// removal of unused ones (go build -ldflags=-dumpdep says <ReflectMethod>).
func checkSize(t *testing.T, name string, most int64) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if t.Logf("%s: %.1f MB", name, float64(info.Size())/1e6); info.Size() > most {
		t.Errorf("%s is %.1f MB, want at most %.1f MB", name, float64(info.Size())/1e6, float64(most)/1e6)
	}
}

// checkSlim looks at the image's program: it has none of what the tag leaves
// out, and says so to whoever asks for it.
func checkSlim(t *testing.T, program string) {
	t.Helper()
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range info.Deps {
		for _, left := range []string{"github.com/nats-io/nats-server", "go.opentelemetry.io/otel/exporters/"} {
			if strings.HasPrefix(m.Path, left) {
				t.Errorf("it has %s", m.Path)
			}
		}
	}
	env := []string{"NATS_URL=embedded", "MEMBRANE_TOKEN=a-token", "BRIDGE_CONFIG=../kubernetes/base/bridge.yaml"}
	for command, want := range map[string]string{
		"serve": "error: NATS_URL is \"embedded\", and this build has no NATS server in it",
		"check": "error: NATS_URL is \"embedded\", and this build has no NATS server in it",
		"dev":   "this build has none: it was made with the tag slim",
	} {
		cmd := exec.CommandContext(t.Context(), program, command)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		exit := new(exec.ExitError)
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, it said\n%swant 1, and %q", command, err, out, want)
		}
	}
}

func checkSBOM(t *testing.T, name string, server bool) {
	t.Helper()
	var doc cycloneDX
	if err := json.Unmarshal([]byte(text(t, name)), &doc); err != nil {
		t.Fatal(err)
	}
	goMod := text(t, "../../go.mod")
	found := 0
	for _, c := range doc.Components {
		if c.Version == "" || c.PURL != "pkg:golang/"+c.Name+"@"+c.Version {
			t.Errorf("component %+v", c)
		}
		if strings.Contains(goMod, "\t"+c.Name+" "+c.Version) {
			found++
		}
	}
	if has := strings.Contains(text(t, name), "nats-server"); has != server {
		t.Errorf("%s names the NATS server: %v, want %v", name, has, server)
	}
	// Everything but the standard library is a line of go.mod.
	if found != len(doc.Components)-1 || found < 15 || doc.Metadata.Component.Version != testVersion || len(doc.Metadata.Component.Hashes) != 1 {
		t.Errorf("%d of %d components are in go.mod; about %+v", found, len(doc.Components), doc.Metadata.Component)
	}
}

// tool runs a program of the system, or skips the test where there is none.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not here", name)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func checkDeb(t *testing.T, name string) {
	t.Helper()
	dir := t.TempDir()
	tool(t, "dpkg-deb", "--extract", name, dir)
	for _, want := range shipped {
		if _, err := os.Stat(filepath.Join(dir, want)); err != nil {
			t.Error(err)
		}
	}
	checkVersion(t, filepath.Join(dir, "usr/bin/bridge8x8"))
	info := tool(t, "dpkg-deb", "--info", name)
	for _, want := range []string{"Package: bridge8x8", "Version: 1.2.3~test.1", "Architecture: " + runtime.GOARCH, "postinst", "prerm"} {
		if !strings.Contains(info, want) {
			t.Errorf("no %q in\n%s", want, info)
		}
	}
	if listed := tool(t, "dpkg-deb", "--ctrl-tarfile", name); !strings.Contains(listed, "/etc/bridge8x8/bridge8x8.env") {
		t.Error("the settings are no configuration file: an upgrade would replace them")
	}
}

func checkRPM(t *testing.T, name string) {
	t.Helper()
	listed := tool(t, "rpm", "-qp", "--nosignature", "--list", name)
	for _, want := range shipped {
		if !strings.Contains(listed, "/"+want+"\n") {
			t.Errorf("no %s in\n%s", want, listed)
		}
	}
	if out := tool(t, "rpm", "-K", "--nosignature", name); !strings.Contains(out, "digests OK") {
		t.Errorf("digests: %s", out)
	}
	if out := tool(t, "rpm", "-qp", "--nosignature", "--configfiles", name); strings.TrimSpace(out) != "/etc/bridge8x8/bridge8x8.env" {
		t.Errorf("configuration files: %s", out)
	}
}

func checkAPK(t *testing.T, name string) {
	t.Helper()
	headers := untar(t, unzip(t, name), "")
	for _, want := range append(slices.Clone(shipped), ".PKGINFO") {
		if headers[want] == nil {
			t.Errorf("no %s", want)
		}
	}
	if h := headers["usr/bin/bridge8x8"]; h == nil || h.Mode&0o777 != 0o755 {
		t.Errorf("the program: %+v", h)
	}
}

func checkMan(t *testing.T, dir string) {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 8 {
		t.Fatalf("pages %v, %v", pages, err)
	}
	for _, page := range pages {
		// Warnings are all that groff says of a page that it does not understand.
		cmd := exec.CommandContext(t.Context(), "groff", "-ww", "-man", "-Tutf8", "-z", page)
		if _, err := exec.LookPath("groff"); err != nil {
			t.Skip("groff is not here")
		}
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", filepath.Base(page), err, out)
		}
	}
}

// oneImage reads the image for a platform out of the release's tar.
func oneImage(t *testing.T, r release) v1.Image {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(filepath.Join(r.out, "bridge8x8_1.2.3-test.1_image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	untar(t, f, dir)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Fatal(err)
	}
	top, err := index.IndexManifest()
	if err != nil || len(top.Manifests) != 1 {
		t.Fatalf("%+v, %v", top, err)
	}
	platforms, err := index.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	list, err := platforms.IndexManifest()
	if err != nil || len(list.Manifests) != 1 || list.Manifests[0].Platform.Architecture != runtime.GOARCH {
		t.Fatalf("%+v, %v", list, err)
	}
	one, err := platforms.Image(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return one
}

func checkImage(t *testing.T, r release) {
	t.Helper()
	one := oneImage(t, r)
	layers, err := one.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	size, err := layers[0].Size()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	headers := untar(t, content, root)
	var unpacked int64
	for name, h := range headers {
		unpacked += h.Size
		if h.Uid != 0 && name != "data/" || h.Mode&0o022 != 0 || h.Mode&(0o7000) != 0 {
			t.Errorf("%s: owner %d, mode %o", name, h.Uid, h.Mode)
		}
	}
	if t.Logf("image: %.1f MB to pull, %.1f MB unpacked", float64(size)/1e6, float64(unpacked)/1e6); unpacked > maxImage {
		t.Errorf("the image is %.1f MB, want at most %.1f MB", float64(unpacked)/1e6, maxImage/1e6)
	}
	if headers["data/"] == nil || headers["data/"].Uid != user || len(headers) != 6 {
		t.Errorf("it holds %v", headers)
	}
	config, err := one.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	runImage(t, root, config.Config)
}

// runImage runs the program as its image says: on nothing but what the image
// holds, as its user. That takes root; who is not runs it where it is.
func runImage(t *testing.T, root string, config v1.Config) {
	t.Helper()
	rooted := os.Geteuid() == 0
	if rooted {
		// The way to the folder, which is this test's, must be open to that user.
		if err := errors.Join(os.Chmod(root, 0o755), os.Chown(filepath.Join(root, "data"), user, user)); err != nil {
			t.Fatal(err)
		}
	}
	admin, public, nats := freeAddr(t), freeAddr(t), freeAddr(t)
	startNATS(t, nats)
	program := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(root, config.Entrypoint[0]), args...)
		cmd.Dir = root
		cmd.Env = append(slices.Clone(config.Env), "BRIDGE_CONFIG=/data/bridge.yaml", "NATS_URL=nats://"+nats, "MEMBRANE_TOKEN=pat-sandbox",
			"BRIDGE_ADMIN_ADDR="+admin, "BRIDGE_HTTP_ADDR="+public)
		if rooted {
			cmd.Path, cmd.Dir = config.Entrypoint[0], "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: user, Gid: user, NoSetGroups: true}}
		} else {
			cmd.Env = append(cmd.Env, "BRIDGE_CONFIG="+filepath.Join(root, "data", "bridge.yaml"))
		}
		return cmd
	}
	if err := os.WriteFile(filepath.Join(root, "data", "bridge.yaml"), []byte(text(t, "../kubernetes/base/bridge.yaml")), 0o644); err != nil {
		t.Fatal(err)
	}
	health := config.Healthcheck.Test[2:]
	if out, err := program(health...).CombinedOutput(); err == nil {
		t.Errorf("its health check holds before it runs: %s", out)
	}
	var said bytes.Buffer
	serve := program(config.Cmd...)
	serve.Stdout, serve.Stderr = &said, &said
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	out, err := program(append(slices.Clone(health), "--wait", "60s")...).CombinedOutput()
	_ = serve.Process.Signal(syscall.SIGTERM)
	select {
	case e := <-ended:
		err = errors.Join(err, e)
	case <-time.After(40 * time.Second):
		_ = serve.Process.Kill()
		<-ended
		err = errors.Join(err, errors.New("SIGTERM did not end it"))
	}
	if err != nil || !strings.HasPrefix(string(out), "ready\n") {
		t.Errorf("run from the image: %v\n%s\n%s", err, out, said.String())
	}
}

// startNATS runs a NATS server there, of the version that go.mod names.
func startNATS(t *testing.T, addr string) {
	t.Helper()
	server := filepath.Join(t.TempDir(), "nats-server")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", server, "github.com/nats-io/nats-server/v2")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), server, "--addr", host, "--port", port, "--jetstream", "--store_dir", t.TempDir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // its context has ended by then
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The Dockerfile, which nothing here can run, is understood by BuildKit's own
// parser, and builds what the release builds.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	content := text(t, "../Dockerfile")
	parsed, err := parser.Parse(strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if len(parsed.Warnings) > 0 {
		t.Errorf("warnings: %+v", parsed.Warnings)
	}
	stages, args, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(stages) != 2 || stages[0].Platform != "$BUILDPLATFORM" || stages[1].BaseName != "scratch" {
		t.Fatalf("stages %+v", stages)
	}
	compiler := ""
	for _, a := range args {
		if a.Args[0].Key == "GO_VERSION" {
			compiler = *a.Args[0].Value
		}
	}
	wanted := regexp.MustCompile(`(?m)^go ([0-9.]+)`).FindStringSubmatch(text(t, "../../go.mod"))[1]
	if !atLeast(compiler, wanted) {
		t.Errorf("compiler %q is older than go.mod's %s", compiler, wanted)
	}
	build := ""
	for _, c := range stages[0].Commands {
		if run, ok := c.(*instructions.RunCommand); ok {
			build += strings.Join(run.CmdLine, " ") + "\n"
		}
	}
	tagged := slices.ContainsFunc(stages[0].Commands, func(c instructions.Command) bool {
		a, ok := c.(*instructions.ArgCommand)
		return ok && a.Args[0].Key == "TAGS" && a.Args[0].Value != nil && *a.Args[0].Value == slim
	})
	if !tagged {
		t.Errorf("it does not build with the tag %s unless told otherwise", slim)
	}
	for _, want := range append(slices.Clone(buildFlags), ldflags("${VERSION}"), `-tags "${TAGS}"`, "CGO_ENABLED=0", "GOOS=${TARGETOS}", "GOARCH=${TARGETARCH}", "go mod verify") {
		if !strings.Contains(build, want) {
			t.Errorf("the build does not have %q:\n%s", want, build)
		}
	}
	for line := range strings.Lines(text(t, "../Dockerfile.dockerignore")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			if _, err := os.Stat(filepath.Join("../..", name)); err != nil {
				t.Error(err)
			}
		}
	}

	r := release{version: "VERSION", roots: "main.go", out: t.TempDir(), revision: "REVISION", built: time.Unix(0, 0).UTC()}
	linux := target{"linux", "amd64"}
	if err := errors.Join(os.MkdirAll(filepath.Dir(r.binary(linux, slim)), 0o700), os.WriteFile(r.binary(linux, slim), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	one, err := r.imageOf(linux)
	if err != nil {
		t.Fatal(err)
	}
	file, err := one.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	compareFinal(t, stages[1], file.Config)
}

// compareFinal compares the Dockerfile's last stage with the image's settings.
func compareFinal(t *testing.T, stage instructions.Stage, want v1.Config) {
	t.Helper()
	var copied []string
	seen := map[string]bool{}
	same := func(what string, ok bool, got any) {
		t.Helper()
		seen[what] = true
		if !ok {
			t.Errorf("%s of the Dockerfile and of the image differ: %v", what, got)
		}
	}
	for _, c := range stage.Commands {
		switch c := c.(type) {
		case *instructions.LabelCommand:
			for _, l := range c.Labels {
				value := strings.Trim(l.Value, `"`)
				_, there := want.Labels[l.Key]
				same("label", there && (strings.HasPrefix(value, "$") || value == want.Labels[l.Key]), l)
			}
			same("labels", len(c.Labels) == len(want.Labels), c.Labels)
		case *instructions.EnvCommand:
			for _, e := range c.Env {
				same("environment", slices.Contains(want.Env, e.Key+"="+e.Value), e)
			}
		case *instructions.UserCommand:
			same("user", c.User == want.User, c.User)
		case *instructions.EntrypointCommand:
			same("entrypoint", !c.PrependShell && slices.Equal(c.CmdLine, want.Entrypoint), c.CmdLine)
		case *instructions.CmdCommand:
			same("command", !c.PrependShell && slices.Equal(c.CmdLine, want.Cmd), c.CmdLine)
		case *instructions.StopSignalCommand:
			same("stop signal", c.Signal == want.StopSignal, c.Signal)
		case *instructions.HealthCheckCommand:
			same("health check", slices.Equal(c.Health.Test, want.Healthcheck.Test) && c.Health.Interval == want.Healthcheck.Interval &&
				c.Health.Timeout == want.Healthcheck.Timeout && c.Health.Retries == want.Healthcheck.Retries, c.Health)
		case *instructions.CopyCommand:
			copied = append(copied, c.DestPath)
		case *instructions.RunCommand:
			t.Errorf("scratch has nothing to run: %v", c.CmdLine)
		}
	}
	if paths := []string{"/etc/ssl/certs/ca-certificates.crt", "/bridge8x8", "/data"}; !slices.Equal(copied, paths) {
		t.Errorf("copied %v, want %v", copied, paths)
	}
	if len(seen) != 8 {
		t.Errorf("compared only %v", seen)
	}
}

// atLeast compares versions such as 1.26.8.
func atLeast(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, _ := strconv.Atoi(x[i])
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m > n
		}
	}
	return len(x) >= len(y)
}

// The scripts of packages are read by the shell that will run them.
func TestPackageScripts(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("../systemd/*.sh")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("%v, %v", scripts, err)
	}
	for _, script := range scripts {
		tool(t, "sh", "-n", script)
		if first, _ := bufio.NewReader(strings.NewReader(text(t, script))).ReadString('\n'); first != "#!/bin/sh\n" {
			t.Errorf("%s begins with %q", script, first)
		}
		if strings.Contains(script, "preremove") {
			tool(t, "sh", script, "upgrade") // does nothing, and does not fail
		}
	}
}
