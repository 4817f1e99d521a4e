package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newMan makes the command that packages are built with; people have the pages.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use: "man <folder>", Short: "write a man page for each command", Hidden: true,
		Long: `Writes a man page for each command into a folder, which must exist. For those who
make packages.`,
		Example: "  bridge8x8 man share/man/man1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("man takes the folder to write to, and got %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return writeManPages(cmd.Root(), args[0])
		},
	}
}

func writeManPages(cmd *cobra.Command, dir string) error {
	name := filepath.Join(dir, manName(cmd)+".1")
	if err := os.WriteFile(name, manPage(cmd), 0o644); err != nil { //nolint:gosec // everybody reads man pages
		return err
	}
	for _, sub := range cmd.Commands() {
		if !sub.IsAvailableCommand() {
			continue
		}
		if err := writeManPages(sub, dir); err != nil {
			return err
		}
	}
	return nil
}

func manName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage is a command's help in the language of man. It bears no date, so that
// the same program gives the same page.
func manPage(cmd *cobra.Command) []byte {
	cmd.InitDefaultHelpFlag()
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`.TH "%s" 1 "" "bridge8x8 %s" "bridge8x8"`, strings.ToUpper(manName(cmd)), roff(versionText()))
	p(".SH NAME\n%s \\- %s", roff(manName(cmd)), roff(cmd.Short))
	p(".SH SYNOPSIS\n.B %s", roff(cmd.UseLine()))
	if cmd.Long != "" {
		p(".SH DESCRIPTION\n.nf\n%s\n.fi", roff(cmd.Long))
	}
	if flags := manFlags(cmd.NonInheritedFlags()); flags != "" {
		p(".SH OPTIONS\n%s", strings.TrimRight(flags, "\n"))
	}
	if cmd.Example != "" {
		p(".SH EXAMPLES\n.nf\n%s\n.fi", roff(cmd.Example))
	}
	p(".SH EXIT STATUS\n0 done, 1 failed or found problems, 2 wrong usage.")
	var also []string
	if cmd.HasParent() {
		also = append(also, manName(cmd.Parent()))
	}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			also = append(also, manName(sub))
		}
	}
	if len(also) > 0 {
		for i, name := range also {
			also[i] = `\fB` + roff(name) + `\fP(1)`
		}
		p(".SH SEE ALSO\n%s", strings.Join(also, ", "))
	}
	return b.Bytes()
}

func manFlags(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		title := "--" + f.Name
		if f.Shorthand != "" {
			title = "-" + f.Shorthand + ", " + title
		}
		if value != "" {
			title += " " + value
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0s" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(&b, ".TP\n\\fB%s\\fP\n%s\n", roff(title), roff(usage))
	})
	return b.String()
}

// roff writes text so that man shows it as it is: a backslash, a hyphen that is
// typed and not set, a line that would begin a request, and characters beyond
// ASCII, whose bytes troff would read one by one.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(text)
	var b strings.Builder
	for _, r := range text {
		if r > 126 {
			fmt.Fprintf(&b, `\[u%04X]`, r)
		} else {
			b.WriteRune(r)
		}
	}
	text = b.String()
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
