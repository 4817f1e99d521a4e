package config

import (
	"errors"
	"io/fs"
	"os"
	"slices"
)

// Load reads and checks the file at path. lookup finds the variables that the
// file refers to as ${NAME}; it is os.LookupEnv outside of tests. The File is
// nil only if the file cannot be read; what could not be understood is left
// out of it, so use it only if there are no Errors.
func Load(path string, lookup func(string) (string, bool)) (*File, Problems) {
	data, err := os.ReadFile(path)
	if err != nil {
		p := Problem{Pos: Pos{File: path}, Level: LevelError, Code: "file-unreadable", Msg: "cannot read the file: " + withoutPath(err).Error()}
		if errors.Is(err, fs.ErrNotExist) {
			p.Code, p.Msg = "file-missing", "there is no such file"
			p.Hint = "set BRIDGE_CONFIG to the file that holds the routes"
		}
		return nil, Problems{p}
	}
	return Parse(path, data, lookup)
}

// Parse is Load for a file that was already read; name is what problems call it.
func Parse(name string, data []byte, lookup func(string) (string, bool)) (*File, Problems) {
	t := treeReader{file: name}
	root := t.read(data)
	d := decoder{file: &File{Path: name}, lookup: lookup, problems: t.problems}
	if root.Kind != KindNone || !t.problems.Errors() {
		d.decode(root)
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		if a.Pos.Line != b.Pos.Line {
			return a.Pos.Line - b.Pos.Line
		}
		return a.Pos.Col - b.Pos.Col
	})
	return d.file, d.problems
}
