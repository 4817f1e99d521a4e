package deploy_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// permitted are the licences that a module of the program may have: those that
// ask for no more than their own text and notice. A licence is told by words that
// no other has; one that is not here is for a person to read.
var permitted = []struct{ name, words string }{
	{"Apache-2.0", "Apache License Version 2.0, January 2004"},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files"},
	{"BSD", "Redistribution and use in source and binary forms, with or without modification, are permitted provided that the following conditions are met"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted"},
}

// forbidden words are those of licences that ask for more.
var forbidden = regexp.MustCompile(`GNU (AFFERO |LESSER )?GENERAL PUBLIC LICENSE|Mozilla Public License|Server Side Public License|Business Source License|Commons Clause|All advertising materials`)

// Every module that the program is made of, on any platform, has a licence that
// is permitted.
func TestLicences(t *testing.T) {
	t.Parallel()
	modules := map[string]string{} // to its folder
	for _, platform := range []string{"linux", "darwin", "windows"} {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=Module", "./cmd/bridge8x8")
		cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0", "GOOS="+platform)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		for packages := json.NewDecoder(strings.NewReader(string(out))); ; {
			var p struct {
				Module *struct {
					Path, Dir string
					Main      bool
				}
			}
			err := packages.Decode(&p)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.Module != nil && !p.Module.Main {
				modules[p.Module.Path] = p.Module.Dir
			}
		}
	}
	if len(modules) < 25 || modules["github.com/nats-io/nats-server/v2"] == "" {
		t.Fatalf("only %d modules: %v", len(modules), modules)
	}
	for path, dir := range modules {
		if _, err := licence(dir); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// licence names the licence of a module's folder.
func licence(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var names []string
	for _, e := range entries {
		if !regexp.MustCompile(`(?i)^(licen[cs]e|copying)(\.(md|txt))?$`).MatchString(e.Name()) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		text := strings.Join(strings.Fields(string(content)), " ")
		if words := forbidden.FindString(text); words != "" {
			return "", errors.New("its licence says " + words)
		}
		i := slices.IndexFunc(permitted, func(l struct{ name, words string }) bool { return strings.Contains(text, l.words) })
		if i < 0 {
			return "", errors.New("nobody knows the licence in " + e.Name() + ": read it, and then permit it here, or do without the module")
		}
		names = append(names, permitted[i].name)
	}
	if len(names) == 0 {
		return "", errors.New("it has no licence")
	}
	return strings.Join(names, ", "), nil
}

func TestLicenceRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"its licence says": "GNU AFFERO GENERAL PUBLIC\n   LICENSE Version 3\nPermission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files",
		"nobody knows":     "You may look at it.",
		"no licence":       "",
	} {
		dir := t.TempDir()
		if text != "" {
			write(t, filepath.Join(dir, "LICENSE"), text)
		}
		if got, err := licence(dir); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q is taken for %q: %v", text, got, err)
		}
	}
}

// The threat model names tests that are there.
func TestThreats(t *testing.T) {
	t.Parallel()
	there := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir("..", func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		for _, match := range declared.FindAllStringSubmatch(read(t, name), -1) {
			there[match[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(read(t, "THREATS.md"), -1)
	for _, match := range named {
		if !there[match[1]] {
			t.Errorf("THREATS.md names %s, and there is no such test", match[1])
		}
	}
	if len(named) < 30 {
		t.Errorf("only %d tests are named", len(named))
	}
}
