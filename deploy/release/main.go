// Command release builds everything that a release consists of, from this
// source and without publishing any of it: binaries, archives, packages (deb,
// rpm, apk), the image as an OCI layout, SBOMs and checksums. It needs neither
// Docker nor a network beyond Go's modules. The same source, version and
// compiler give the same bytes.
//
//	cd deploy && go run ./release -version v1.2.3 -out ../bin/release
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// target is a platform, as Go and OCI name it.
type target struct{ os, arch string }

func (t target) String() string { return t.os + "/" + t.arch }

// slim is the build tag of the image's program, which leaves out what a bridge
// in a container has elsewhere: the NATS server.
const slim = "slim"

// release is what one run makes.
type release struct {
	deploy  string // the folder deploy of the source, absolute
	out     string // where everything goes, absolute
	version string // such as v1.2.3
	roots   string // path of the CA certificates that the image trusts
	targets []target
	// built is the time that everything bears.
	built    time.Time
	revision string // the commit, or "" if there is none
	say      io.Writer
	// flags are go build's. Only a test sets others, to use what it has compiled already.
	flags []string
}

// buildFlags keep this machine's paths and its state of git out of the program.
var buildFlags = []string{"-trimpath", "-buildvcs=false"}

// ldflags strip the program, and tell it its version.
func ldflags(version string) string { return "-s -w -buildid= -X main.version=" + version }

const allTargets = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64"

func run(ctx context.Context, args []string, say io.Writer) error {
	r := release{say: say, flags: buildFlags}
	if err := r.parse(ctx, args); err != nil {
		return err
	}
	return r.make(ctx)
}

// parse reads the command line, and looks at the source.
func (r *release) parse(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	flags.StringVar(&r.version, "version", "v0.0.0-snapshot", "the version, `vX.Y.Z`")
	flags.StringVar(&r.out, "out", "../bin/release", "`folder` for everything; must be new or empty")
	flags.StringVar(&r.deploy, "source", ".", "the `folder` deploy of the source")
	flags.StringVar(&r.roots, "roots", "/etc/ssl/certs/ca-certificates.crt", "`file` with the CA certificates that the image trusts")
	targets := flags.String("targets", allTargets, "`platforms` to build for, separated by commas")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if !strings.HasPrefix(r.version, "v") || strings.Count(r.version, ".") < 2 {
		return fmt.Errorf("-version %q is no version; write it like v1.2.3", r.version)
	}
	for name := range strings.SplitSeq(*targets, ",") {
		goos, arch, ok := strings.Cut(name, "/")
		if !ok {
			return fmt.Errorf("-targets: %q is no platform; write it like linux/amd64", name)
		}
		r.targets = append(r.targets, target{goos, arch})
	}
	var err error
	if r.deploy, err = filepath.Abs(r.deploy); err != nil {
		return err
	}
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if left, err := os.ReadDir(r.out); err == nil && len(left) > 0 {
		return fmt.Errorf("-out %s is not empty; remove it first, so that nothing old gets into the release", r.out)
	}
	return r.when(ctx)
}

// when finds the time and the commit of the source: SOURCE_DATE_EPOCH, or else
// the commit's time.
func (r *release) when(ctx context.Context) error {
	if out, err := r.output(ctx, "git", "rev-parse", "HEAD"); err == nil {
		r.revision = out
	}
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		var err error
		if epoch, err = r.output(ctx, "git", "log", "-1", "--format=%ct"); err != nil {
			return fmt.Errorf("when is this source from? set SOURCE_DATE_EPOCH: %w", err)
		}
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH %q is no number of seconds", epoch)
	}
	r.built = time.Unix(seconds, 0).UTC()
	return nil
}

func (r *release) output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // git
	cmd.Dir = r.deploy
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func (r *release) make(ctx context.Context) error {
	// This machine's own binary writes completions and man pages.
	own := target{runtime.GOOS, runtime.GOARCH}
	all := r.targets
	if !slices.Contains(all, own) {
		all = append([]target{own}, all...)
	}
	for _, t := range all {
		if err := r.build(ctx, t, ""); err != nil {
			return err
		}
		if t.os == "linux" && slices.Contains(r.targets, t) {
			if err := r.build(ctx, t, slim); err != nil {
				return err
			}
		}
	}
	if err := r.share(ctx, r.binary(own, "")); err != nil {
		return err
	}
	var files []string // by their names in out
	for _, t := range r.targets {
		name, err := r.archive(t)
		if err != nil {
			return err
		}
		sbom, err := r.sbom(t, "")
		if err != nil {
			return err
		}
		files = append(files, name, sbom)
		if t.os == "linux" {
			packages, err := r.packages(t)
			if err != nil {
				return err
			}
			if sbom, err = r.sbom(t, slim); err != nil {
				return err
			}
			files = append(append(files, packages...), sbom)
		}
	}
	image, err := r.image()
	if err != nil {
		return err
	}
	if image != "" {
		files = append(files, image)
	}
	if err := r.checksums(files); err != nil {
		return err
	}
	fmt.Fprintf(r.say, "%d files in %s, of %s\n", len(files)+1, r.out, r.built.Format(time.RFC3339))
	return nil
}

// base is how the files of a target begin.
func (r *release) base(t target) string {
	return "bridge8x8_" + strings.TrimPrefix(r.version, "v") + "_" + t.os + "_" + t.arch
}

// binary is where a target's program is built to, with everything or with a tag.
func (r *release) binary(t target, tag string) string {
	name := "bridge8x8"
	if t.os == "windows" {
		name += ".exe"
	}
	return filepath.Join(r.out, "build", strings.TrimSuffix(t.os+"_"+t.arch+"_"+tag, "_"), name)
}

// build compiles the program just as deploy/Dockerfile does; a test compares.
func (r *release) build(ctx context.Context, t target, tag string) error {
	start := time.Now()
	args := append([]string{"build"}, r.flags...)
	args = append(args, "-tags", tag, "-ldflags", ldflags(r.version), "-o", r.binary(t, tag), "./cmd/bridge8x8")
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // our own arguments
	cmd.Dir = filepath.Dir(r.deploy)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+t.os, "GOARCH="+t.arch, "GOTOOLCHAIN=local", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building for %s: %w\n%s", t, err, out)
	}
	info, err := os.Stat(r.binary(t, tag))
	if err != nil {
		return err
	}
	fmt.Fprintf(r.say, "built %s: %.1f MB in %.0f s\n", strings.TrimSpace(t.String()+" "+tag), float64(info.Size())/1e6, time.Since(start).Seconds())
	return nil
}

// completions is what each shell calls its file.
var completions = map[string]string{"bash": "bridge8x8.bash", "zsh": "_bridge8x8", "fish": "bridge8x8.fish"}

// share lets the program write its completions and man pages.
func (r *release) share(ctx context.Context, program string) error {
	man, comp := filepath.Join(r.out, "build", "share", "man", "man1"), filepath.Join(r.out, "build", "share", "completions")
	for _, dir := range []string{man, comp} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // it is for everybody
			return err
		}
	}
	if out, err := exec.CommandContext(ctx, program, "man", man).CombinedOutput(); err != nil { //nolint:gosec // what was just built
		return fmt.Errorf("man pages: %w\n%s", err, out)
	}
	for shell, name := range completions {
		out, err := exec.CommandContext(ctx, program, "completion", shell).Output() //nolint:gosec // what was just built
		if err != nil {
			return fmt.Errorf("completion of %s: %w", shell, err)
		}
		if err := os.WriteFile(filepath.Join(comp, name), out, 0o644); err != nil { //nolint:gosec // it is for everybody
			return err
		}
	}
	// nfpm keeps the times of a whole folder's files.
	return filepath.WalkDir(filepath.Join(r.out, "build", "share"), func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(name, r.built, r.built) //nolint:gosec // a folder of our own
	})
}
