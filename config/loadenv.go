package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/caarlos0/env/v11"
)

// EnvVar is one variable of the reference.
type EnvVar struct {
	Name    string
	Default string // as it would be written; empty means not set
	Secret  bool   // can also be given as <Name>_FILE
	Doc     string
}

// EnvReference is every variable that LoadEnv reads, in the order of Env.
func EnvReference() []EnvVar {
	return appendVars(nil, reflect.TypeFor[variables]())
}

func appendVars(vars []EnvVar, t reflect.Type) []EnvVar {
	for field := range t.Fields() {
		name := field.Tag.Get("env")
		switch {
		case name != "":
			vars = append(vars, EnvVar{
				Name:    name,
				Default: field.Tag.Get("envDefault"),
				Secret:  field.Type == reflect.TypeFor[Secret](),
				Doc:     field.Tag.Get("doc"),
			})
		case field.Type.Kind() == reflect.Struct:
			vars = appendVars(vars, field.Type)
		}
	}
	return vars
}

// Limits of what a variable may say.
const (
	maxConcurrency = 4096
	minAckWait     = time.Second
	minRunLimit    = time.Second
	// retentionMargin is what the ledger must remember beyond the longest run.
	retentionMargin = time.Hour
	// minMaxEvent: every intermediary has to pass on this much.
	// source: CloudEvents specification 1.0.2, size limits.
	minMaxEvent = 64 << 10
	// maxMaxEvent is the most that nats-server takes in one message.
	// source: nats-server, MAX_PAYLOAD_MAX_SIZE.
	maxMaxEvent   = 64 << 20
	maxSecretFile = 1 << 20
	// A connection takes some 16 KB, and as much again while its request's headers come.
	minConnections, maxConnections = 8, 1 << 16
)

// LoadEnv reads the environment, given as a map (env.ToMap(os.Environ())), and
// reports everything that is wrong with it. A variable that is set but empty
// counts as not set, except BRIDGE_HTTP_ADDR, where empty turns the listener off.
// Missing Membrane credentials are no problem here: see RequireMembrane.
func LoadEnv(environ map[string]string) (Env, Problems) {
	l := envLoader{environ: make(map[string]string, len(environ)), broken: map[string]bool{}}
	maps.Copy(l.environ, environ)

	l.readSecretFiles()
	v := l.parse()
	l.fold(&v)

	e := Env{NATS: v.NATS, Membrane: v.Membrane, Bridge: v.Bridge, Log: v.Log}
	l.checkNATS(&e)
	l.checkMembrane(&e.Membrane)
	l.checkBridge(&e)
	l.checkLog(&e.Log)
	l.warnUnknown(environ)
	return e, l.problems
}

type envLoader struct {
	environ  map[string]string
	broken   map[string]bool // variables that already have a problem
	problems Problems
}

// fail reports a problem of one variable.
func (l *envLoader) fail(name, code, hint, format string, args ...any) {
	l.broken[name] = true
	l.problems = append(l.problems, Problem{
		Level: LevelError, Code: code, Msg: name + " " + fmt.Sprintf(format, args...), Hint: hint,
	})
}

func (l *envLoader) warn(name, code, hint, text string) {
	l.problems = append(l.problems, Problem{
		Level: LevelWarning, Code: code, Msg: name + " " + text, Hint: hint,
	})
}

// readSecretFiles puts the content of each <NAME>_FILE where <NAME> would be.
func (l *envLoader) readSecretFiles() {
	for _, v := range EnvReference() {
		if !v.Secret {
			continue
		}
		twin := v.Name + "_FILE"
		path := l.environ[twin]
		if path != "" {
			if l.environ[v.Name] != "" {
				l.fail(v.Name, "set-twice", "keep one of the two", "and %s are both set", twin)
				continue
			}
			text, err := readSecretFile(path)
			if err != nil {
				l.fail(twin, "secret-file", "", "names the file %q, which cannot be used: %v", path, err)
				continue
			}
			l.environ[v.Name] = text
		}
		if strings.ContainsFunc(l.environ[v.Name], unicode.IsControl) {
			l.fail(v.Name, "bad-secret", "check for a stray line break in the middle or at the end",
				"holds a line break or another control character")
		}
	}
}

// readSecretFile returns the file's content without its last line break. Its
// errors name neither the content nor the path.
func readSecretFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", withoutPath(err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return "", withoutPath(err)
	case len(data) > maxSecretFile:
		return "", fmt.Errorf("it is larger than %d bytes", maxSecretFile)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if text == "" {
		return "", errors.New("it is empty")
	}
	return text, nil
}

// withoutPath drops the path from an error of package os, since the message
// around it already has it.
func withoutPath(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// parse lets caarlos0/env fill the struct, and puts its errors, which name Go
// fields and quote values, into words of our own.
func (l *envLoader) parse() variables {
	var v variables
	err := env.ParseWithOptions(&v, env.Options{
		Environment: l.environ,
		FuncMap: map[reflect.Type]env.ParserFunc{
			reflect.TypeFor[time.Duration](): func(s string) (any, error) { return ParseDuration(s) },
		},
	})
	// env takes "set but empty" for "not set" where there is a default.
	if addr, set := l.environ["BRIDGE_HTTP_ADDR"]; set && addr == "" {
		v.Bridge.HTTPAddr = ""
	}
	if err == nil {
		return v
	}
	all, ok := errors.AsType[env.AggregateError](err)
	if !ok {
		all.Errors = []error{err}
	}
	names := parsedFields(map[string]EnvVar{}, reflect.TypeFor[variables]())
	for _, err := range all.Errors {
		parse, ok := errors.AsType[env.ParseError](err)
		if !ok {
			panic(err) // a tag of ours is wrong; no environment leads here
		}
		known := names[parse.Name]
		value := l.environ[known.Name]
		example := "such as " + known.Name + "=" + known.Default
		switch {
		case parse.Type == reflect.TypeFor[time.Duration]():
			l.fail(known.Name, "bad-duration", "write numbers with units, "+example, "is %q, which is no duration", value)
		case parse.Type.Kind() == reflect.Bool:
			l.fail(known.Name, "bad-value", "write true or false", "is %q, which is neither true nor false", value)
		case errors.Is(parse.Err, strconv.ErrRange):
			l.fail(known.Name, "bad-value", example, "is %q, which is too large", value)
		default:
			l.fail(known.Name, "bad-value", "write digits only, "+example, "is %q, which is no whole number", value)
		}
	}
	return v
}

// parsedFields maps the name of each Go field whose value can fail to parse to
// its variable. Those names are unique, which a test holds.
func parsedFields(names map[string]EnvVar, t reflect.Type) map[string]EnvVar {
	for field := range t.Fields() {
		switch {
		case field.Tag.Get("env") == "":
			if field.Type.Kind() == reflect.Struct {
				parsedFields(names, field.Type)
			}
		case field.Type.Kind() != reflect.String:
			names[field.Name] = EnvVar{Name: field.Tag.Get("env"), Default: field.Tag.Get("envDefault")}
		}
	}
	return names
}

// fold makes one field of the variables that belong together.
func (l *envLoader) fold(v *variables) {
	switch {
	case v.Bridge.SinkURL == "":
		v.Bridge.SinkURL = v.Extra.KSink
	case v.Extra.KSink != "" && v.Extra.KSink != v.Bridge.SinkURL:
		l.warn("K_SINK", "set-twice", "keep one of the two", "is not used, since BRIDGE_SINK_URL is set as well")
	}
	for _, token := range []Secret{v.Extra.HTTPToken, v.Extra.HTTPToken2} {
		if token != "" {
			v.Bridge.HTTPTokens = append(v.Bridge.HTTPTokens, token)
		}
	}
	v.Bridge.SinkExtensions = l.overrides(v.Extra.Overrides)
	var origins []string
	for _, origin := range v.Bridge.HTTPOrigins {
		if origin = strings.TrimSpace(origin); origin != "" {
			origins = append(origins, origin)
		}
	}
	v.Bridge.HTTPOrigins = origins
	for _, text := range trimmed(v.Extra.HTTPProxies) {
		if text == "" {
			continue
		}
		prefix, err := parsePrefix(text)
		if err != nil {
			l.fail("BRIDGE_HTTP_PROXIES", "bad-address", "write addresses such as 10.0.0.7 or networks such as 10.0.0.0/8, separated by commas", "holds %q, which is no address", text)
			continue
		}
		v.Bridge.Proxies = append(v.Bridge.Proxies, prefix)
	}
	v.Bridge.TLSClientNames = slices.DeleteFunc(trimmed(v.Bridge.TLSClientNames), func(name string) bool { return name == "" })
}

func trimmed(texts []string) []string {
	for i, text := range texts {
		texts[i] = strings.TrimSpace(text)
	}
	return texts
}

func (l *envLoader) checkNATS(e *Env) {
	n := &e.NATS
	if !n.Embedded() {
		for server := range strings.SplitSeq(n.URL, ",") {
			if !natsServer(strings.TrimSpace(server)) {
				l.fail("NATS_URL", "bad-url", "write nats://host:4222, several separated by commas, or embedded",
					"holds %q, which is no NATS server", MaskURL(strings.TrimSpace(server)))
			}
		}
	}
	switch {
	case n.JSDomain == "":
	case !validDomain(n.JSDomain):
		l.fail("NATS_JS_DOMAIN", "bad-name", "use the domain as the server's configuration names it", "is %q, which cannot be the name of a JetStream domain", n.JSDomain)
	case n.Embedded():
		l.fail("NATS_JS_DOMAIN", "no-domain", "unset it, or set NATS_URL to a server", "is %q, but the embedded server has no JetStream domain", n.JSDomain)
	}
	if n.Password != "" && n.User == "" {
		l.fail("NATS_PASSWORD", "half-set", "set NATS_USER as well", "is set, but NATS_USER is not")
	}
	for _, half := range [][4]string{
		{"NATS_TLS_CERT", n.TLSCert, "NATS_TLS_KEY", n.TLSKey},
		{"NATS_TLS_KEY", n.TLSKey, "NATS_TLS_CERT", n.TLSCert},
	} {
		if half[1] != "" && half[3] == "" {
			l.fail(half[0], "half-set", "set "+half[2]+" as well", "is set, but %s is not", half[2])
		}
	}
	var ways []string
	for _, way := range [][2]string{
		{"NATS_CREDS", n.Creds}, {"NATS_NKEY", n.NKey}, {"NATS_TOKEN", n.Token.Reveal()}, {"NATS_USER", n.User},
	} {
		if way[1] != "" {
			ways = append(ways, way[0])
		}
	}
	if len(ways) > 1 {
		l.fail(strings.Join(ways, " and "), "set-twice", "keep the one that the server expects",
			"are different ways to sign in, and only one can be used")
	}
}

// natsServer tells whether s is an address that the NATS client takes.
func natsServer(s string) bool {
	if !strings.Contains(s, "://") {
		s = "nats://" + s
	}
	u, err := url.Parse(s)
	return err == nil && u.Hostname() != "" && u.Hostname() != "embedded" &&
		slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme)
}

func (l *envLoader) checkMembrane(m *MembraneEnv) {
	l.checkHTTPURL("MEMBRANE_API_URL", m.APIURL)
	var set, missing []string
	for _, part := range [][2]string{
		{"MEMBRANE_WORKSPACE_KEY", m.WorkspaceKey},
		{"MEMBRANE_WORKSPACE_SECRET", m.WorkspaceSecret.Reveal()},
		{"MEMBRANE_TENANT_KEY", m.TenantKey},
	} {
		switch {
		case part[1] != "":
			set = append(set, part[0])
		case !l.broken[part[0]] && !l.broken[part[0]+"_FILE"]:
			missing = append(missing, part[0])
		}
	}
	tenantOnly := len(set) == 1 && m.TenantKey != ""
	switch {
	case m.Token != "" && tenantOnly:
		// a token that is not bound to a tenant, and the tenant to use it for
	case m.Token != "" && len(set) > 0:
		l.fail("MEMBRANE_TOKEN", "set-twice", "keep the token, or the workspace's key and secret with the tenant's key",
			"and %s are both set, and only one way to sign in can be used", strings.Join(set, ", "))
	case len(set) > 0 && len(missing) > 0:
		l.fail(strings.Join(set, " and "), "half-set", "set all three of MEMBRANE_WORKSPACE_KEY, MEMBRANE_WORKSPACE_SECRET and MEMBRANE_TENANT_KEY, or MEMBRANE_TOKEN alone",
			"without %s is not enough to sign in", strings.Join(missing, " and "))
	}
	if !l.broken["MEMBRANE_RUN_LIMIT"] && m.RunLimit < minRunLimit {
		l.fail("MEMBRANE_RUN_LIMIT", "bad-value", "", "is %s, less than %s", FormatDuration(m.RunLimit), FormatDuration(minRunLimit))
	}
}

// RequireMembrane reports that there is no way to sign in to Membrane. Only
// the commands that talk to it ask.
func (e *Env) RequireMembrane() Problems {
	m := &e.Membrane
	if m.Token != "" || m.WorkspaceKey != "" && m.WorkspaceSecret != "" && m.TenantKey != "" {
		return nil
	}
	return Problems{{
		Level: LevelError, Code: "no-membrane-credentials",
		Msg:  "no way to sign in to Membrane: neither MEMBRANE_TOKEN nor MEMBRANE_WORKSPACE_KEY, MEMBRANE_WORKSPACE_SECRET and MEMBRANE_TENANT_KEY are set",
		Hint: "run bridge8x8 login, set MEMBRANE_TOKEN or MEMBRANE_TOKEN_FILE, or try it without an account: bridge8x8 dev",
	}}
}

var (
	prefixPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
)

func (l *envLoader) checkBridge(e *Env) {
	b := &e.Bridge
	if !namePattern.MatchString(b.Name) {
		l.fail("BRIDGE_NAME", "bad-name", "use up to 63 letters, digits, '.', '_' and '-', the first a letter or digit",
			"is %q, which cannot be part of the source of an event", b.Name)
	}
	if !prefixPattern.MatchString(b.Prefix) {
		l.fail("BRIDGE_PREFIX", "bad-name", "use letters, digits, '_' and '-'",
			"is %q, which cannot be part of a NATS subject", b.Prefix)
	}

	addrs := [][2]string{{"BRIDGE_HTTP_ADDR", b.HTTPAddr}, {"BRIDGE_ADMIN_ADDR", b.AdminAddr}, {"BRIDGE_NATS_ADDR", b.NATSAddr}}
	for i, addr := range addrs {
		if addr[1] == "" {
			continue
		}
		if !listenAddr(addr[1]) {
			l.fail(addr[0], "bad-address", "write host:port, such as 127.0.0.1:8080, or :8080 for every interface",
				"is %q, which is no address to listen on", addr[1])
			continue
		}
		for _, earlier := range addrs[:i] {
			if earlier[1] == addr[1] && !strings.HasSuffix(addr[1], ":0") {
				l.fail(addr[0], "same-address", "give them different ports", "and %s are both %q", earlier[0], addr[1])
			}
		}
	}
	if b.NATSAddr != "" && !e.NATS.Embedded() {
		l.warn("BRIDGE_NATS_ADDR", "no-effect", "set NATS_URL=embedded, or leave it out",
			"has no effect, since NATS_URL is not embedded")
	}

	if !l.broken["BRIDGE_CONCURRENCY"] && (b.Concurrency < 1 || b.Concurrency > maxConcurrency) {
		l.fail("BRIDGE_CONCURRENCY", "bad-value", "", "is %d, and must be 1 to %d", b.Concurrency, maxConcurrency)
	}
	if !l.broken["BRIDGE_ACK_WAIT"] && b.AckWait < minAckWait {
		l.fail("BRIDGE_ACK_WAIT", "bad-value", "", "is %s, less than %s", FormatDuration(b.AckWait), FormatDuration(minAckWait))
	}
	if !l.broken["BRIDGE_GRACE"] && b.Grace < 0 {
		l.fail("BRIDGE_GRACE", "bad-value", "write 0s to stop at once", "is %s, less than nothing", FormatDuration(b.Grace))
	}
	switch {
	case l.broken["BRIDGE_REPLICAS"]:
	case b.Replicas != 1 && b.Replicas != 3 && b.Replicas != 5:
		l.fail("BRIDGE_REPLICAS", "bad-value", "", "is %d, and must be 1, 3 or 5", b.Replicas)
	case b.Replicas > 1 && e.NATS.Embedded():
		l.fail("BRIDGE_REPLICAS", "bad-nesting", "leave it at 1, or set NATS_URL to a cluster",
			"is %d, but NATS_URL=embedded is one server", b.Replicas)
	}
	least := e.Membrane.RunLimit + retentionMargin
	if !l.broken["BRIDGE_RETENTION"] && !l.broken["MEMBRANE_RUN_LIMIT"] && b.Retention <= least {
		l.fail("BRIDGE_RETENTION", "bad-nesting", "make it longer than "+FormatDuration(least),
			"is %s, which is not longer than MEMBRANE_RUN_LIMIT (%s) + %s: a record could be forgotten while its run can still be heard of",
			FormatDuration(b.Retention), FormatDuration(e.Membrane.RunLimit), FormatDuration(retentionMargin))
	}
	if b.SinkURL != "" {
		name := "BRIDGE_SINK_URL"
		if l.environ[name] == "" {
			name = "K_SINK"
		}
		l.checkSink(name, b)
	} else if b.SinkToken != "" || len(b.SinkExtensions) > 0 {
		l.warn("BRIDGE_SINK_TOKEN or K_CE_OVERRIDES", "no-effect", "set BRIDGE_SINK_URL, or leave it out", "has no effect, since there is no sink")
	}
	l.checkChoice("BRIDGE_SINK_ENCODING", b.SinkEncoding, "binary", "structured")
	if !l.broken["BRIDGE_HTTP_RATE"] && b.HTTPRate < 0 {
		l.fail("BRIDGE_HTTP_RATE", "bad-value", "write 0 for any rate", "is %d, less than nothing", b.HTTPRate)
	}
	if !l.broken["BRIDGE_HTTP_CLIENT_RATE"] && b.ClientRate < 0 {
		l.fail("BRIDGE_HTTP_CLIENT_RATE", "bad-value", "write 0 for any rate", "is %d, less than nothing", b.ClientRate)
	}
	if !l.broken["BRIDGE_HTTP_CONNECTIONS"] && (b.Connections < minConnections || b.Connections > maxConnections) {
		l.fail("BRIDGE_HTTP_CONNECTIONS", "bad-value", "", "is %d, and must be %d to %d", b.Connections, minConnections, maxConnections)
	}
	l.checkTLS(b)
	if !l.broken["BRIDGE_MAX_EVENT"] && (b.MaxEvent < minMaxEvent || b.MaxEvent > maxMaxEvent) {
		l.fail("BRIDGE_MAX_EVENT", "bad-value", "", "is %d, and must be %d to %d bytes", b.MaxEvent, minMaxEvent, maxMaxEvent)
	}
	l.checkChoice("BRIDGE_ENCODING", b.Encoding, "structured", "binary")
}

// checkTLS checks what belongs together. The files themselves are read by the listener.
func (l *envLoader) checkTLS(b *BridgeEnv) {
	for _, half := range [][4]string{
		{"BRIDGE_TLS_CERT", b.TLSCert, "BRIDGE_TLS_KEY", b.TLSKey},
		{"BRIDGE_TLS_KEY", b.TLSKey, "BRIDGE_TLS_CERT", b.TLSCert},
		{"BRIDGE_TLS_CLIENT_CA", b.TLSClientCA, "BRIDGE_TLS_CERT", b.TLSCert},
		{"BRIDGE_TLS_CLIENT_NAMES", strings.Join(b.TLSClientNames, ","), "BRIDGE_TLS_CLIENT_CA", b.TLSClientCA},
	} {
		if half[1] != "" && half[3] == "" {
			l.fail(half[0], "half-set", "set "+half[2]+" as well", "is set, but %s is not", half[2])
		}
	}
}

func (l *envLoader) checkLog(e *LogEnv) {
	e.Level, e.Format = strings.ToLower(e.Level), strings.ToLower(e.Format)
	l.checkChoice("LOG_LEVEL", e.Level, "debug", "info", "warn", "error")
	if e.Format != "" {
		l.checkChoice("LOG_FORMAT", e.Format, "text", "json")
	}
}

func (l *envLoader) checkChoice(name, value string, choices ...string) {
	if slices.Contains(choices, value) {
		return
	}
	hint := "write " + orList(choices)
	if near := Nearest(value, choices); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	l.fail(name, "bad-value", hint, "is %q, and must be %s", l.environ[name], orList(choices))
}

func orList(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

func (l *envLoader) checkHTTPURL(name, raw string) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		l.fail(name, "bad-url", "write it with its scheme, such as https://example.com", "is %q, which is no http or https address", MaskURL(raw))
	}
}

// MaskURL is a URL, or several separated by commas, without what may be secret
// in it: user, password and query. It also takes what is no proper URL.
func MaskURL(raw string) string {
	urls := strings.Split(raw, ",")
	for i, u := range urls {
		u, _, _ = strings.Cut(u, "?")
		if at := strings.LastIndex(u, "@"); at >= 0 {
			scheme, _, found := strings.Cut(u[:at], "://")
			if found {
				scheme += "://"
			} else {
				scheme = ""
			}
			u = scheme + masked + u[at:]
		}
		urls[i] = u
	}
	return strings.Join(urls, ",")
}

func listenAddr(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// serviceLink matches what Kubernetes sets for a Service named "bridge",
// "membrane" or "nats", such as BRIDGE_SERVICE_HOST and BRIDGE_PORT_8080_TCP_ADDR.
var serviceLink = regexp.MustCompile(`^[A-Z0-9_]+_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// warnUnknown reports variables that look like ours and are not: most likely
// misspelt, and so without effect.
func (l *envLoader) warnUnknown(environ map[string]string) {
	plain := map[string]bool{} // known, and not a secret
	var known []string
	for _, v := range EnvReference() {
		known = append(known, v.Name)
		if v.Secret {
			known = append(known, v.Name+"_FILE")
		} else {
			plain[v.Name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(environ)) {
		ours := strings.HasPrefix(name, "BRIDGE_") || strings.HasPrefix(name, "MEMBRANE_")
		switch {
		case !ours && !strings.HasPrefix(name, "NATS_"),
			slices.Contains(known, name),
			strings.HasPrefix(name, "BRIDGE_TEST_"),
			serviceLink.MatchString(name),
			strings.HasSuffix(name, "_PORT") && strings.Contains(environ[name], "://"): // a service link as well
			continue
		}
		if base, isFile := strings.CutSuffix(name, "_FILE"); isFile && plain[base] {
			l.warn(name, "unknown-variable", "only secrets are read from files: set "+base, "is not a variable of bridge8x8, and has no effect")
			continue
		}
		hint := ""
		if near := Nearest(name, known); near != "" {
			hint = fmt.Sprintf("did you mean %s?", near)
		} else if !ours {
			continue // NATS_ is not our prefix alone
		}
		l.warn(name, "unknown-variable", hint, "is not a variable of bridge8x8, and has no effect")
	}
}
