package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/membrane"
	"github.com/bridge8x8/bridge8x8/bridge/membrane/signin"
	"github.com/bridge8x8/bridge8x8/config"
)

// How a command is signed in.
const (
	byToken  = "MEMBRANE_TOKEN"
	bySecret = "MEMBRANE_WORKSPACE_SECRET"
	byLogin  = "login"
)

// signedInBy says which way of signing in is used; "" if there is none in the environment.
func signedInBy(env *config.Env) string {
	m := &env.Membrane
	switch {
	case m.Token != "":
		return byToken
	case m.WorkspaceKey != "" || m.WorkspaceSecret != "":
		return bySecret
	}
	return ""
}

// storedSignIn is the sign-in of bridge8x8 login, or nil where the environment
// has one, which wins, or nobody has signed in. It sets the address of the API to
// the one that the sign-in is for, unless the environment says another: a token
// is never sent elsewhere.
func storedSignIn(env *config.Env) (membrane.TokenSource, error) {
	source, err := loginSource(env)
	if source == nil {
		return nil, err // a nil of the interface's own
	}
	return source, nil
}

func loginSource(env *config.Env) (*signin.Source, error) {
	if signedInBy(env) != "" {
		return nil, nil
	}
	store, err := signin.UserStore()
	if err != nil {
		return nil, nil //nolint:nilerr // without a home there is no sign-in, which is no error
	}
	c, err := store.Load()
	switch {
	case errors.Is(err, signin.ErrNone):
		return nil, nil
	case err != nil:
		return nil, err
	}
	if os.Getenv("MEMBRANE_API_URL") != "" && apiURL(env) != c.APIURL {
		return nil, fmt.Errorf("you are signed in to %s, and MEMBRANE_API_URL is %s: unset it, or run bridge8x8 login", c.APIURL, apiURL(env))
	}
	env.Membrane.APIURL = c.APIURL
	return &signin.Source{Store: store, Server: signin.Server{APIURL: c.APIURL, UserAgent: userAgent()}}, nil
}

// apiURL is written one way only, so that two can be compared.
func apiURL(env *config.Env) string { return strings.TrimRight(env.Membrane.APIURL, "/") }

func userAgent() string { return "bridge8x8/" + versionText() }

// session is a command that talks to Membrane.
type session struct {
	ctx    context.Context
	cmd    *cobra.Command
	env    config.Env
	by     string
	client *membrane.Client
}

// membraneCommand makes the body of a command that talks to Membrane.
func membraneCommand(run func(s *session, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		env, err := environment(slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		s := &session{ctx: cmd.Context(), cmd: cmd, by: signedInBy(&env)}
		signIn, err := storedSignIn(&env)
		if err != nil {
			return err
		}
		if signIn != nil {
			s.by = byLogin
		} else if problems := env.RequireMembrane(); problems.Errors() {
			return errors.New("you are not signed in to Membrane; run bridge8x8 login, or set MEMBRANE_TOKEN")
		}
		s.env = env
		m := env.Membrane
		s.client, err = membrane.New(membrane.Options{
			BaseURL: m.APIURL, Token: m.Token, WorkspaceKey: m.WorkspaceKey, WorkspaceSecret: m.WorkspaceSecret, TenantKey: m.TenantKey,
			SignIn: signIn, RunLimit: m.RunLimit, UserAgent: userAgent(),
		})
		if err != nil {
			return err
		}
		defer s.client.Close()
		return s.explain(run(s, args))
	}
}

// explain turns what Membrane refused into what a person can do about it.
func (s *session) explain(err error) error {
	if f, ok := errors.AsType[*bridge.Failure](err); ok {
		switch {
		case s.ctx.Err() != nil:
			return errSilent // the person stopped it
		case f.Kind == bridge.Unknown:
			return fmt.Errorf("%s: %s", named(f.Message), doubt("list"))
		case f.Kind == bridge.Outage && strings.HasPrefix(f.Message, "membrane cannot be reached"):
			why := f.Message[strings.LastIndex(f.Message, ": ")+2:]                                                                           // without Go's words for it
			return fmt.Errorf("Membrane cannot be reached at %s: %s; is MEMBRANE_API_URL right?", config.MaskURL(s.env.Membrane.APIURL), why) //nolint:staticcheck // a name
		case f.Kind == bridge.Outage && strings.HasSuffix(f.Message, "that is not JSON"):
			return fmt.Errorf("%s: is MEMBRANE_API_URL %s right? the page of a proxy that wants a sign-in looks like that", named(f.Message), config.MaskURL(s.env.Membrane.APIURL))
		case f.Kind == bridge.Outage:
			return fmt.Errorf("%s; try again", named(f.Message))
		}
		return errors.New(named(f.Message))
	}
	r, ok := errors.AsType[*membrane.Refusal](err)
	if !ok {
		return err
	}
	said := ""
	if r.Message != "" {
		said = ": " + r.Message
	}
	switch {
	case r.Status == 401 && s.by == byLogin:
		return errors.New("Membrane no longer takes your sign-in; run bridge8x8 login") //nolint:staticcheck // a name
	case r.Status == 401 && s.by == byToken:
		why := "it is wrong, or was revoked"
		if until := expiry(s.env.Membrane.Token); !until.IsZero() && until.Before(time.Now()) {
			why = "it expired at " + stamp(until)
		}
		return fmt.Errorf("Membrane does not take MEMBRANE_TOKEN: %s; set a new one, or unset it and run bridge8x8 login", why) //nolint:staticcheck // a name
	case r.Status == 401:
		return fmt.Errorf("Membrane does not take a token of workspace %q that is signed with MEMBRANE_WORKSPACE_SECRET: check the secret, and MEMBRANE_WORKSPACE_KEY", s.env.Membrane.WorkspaceKey) //nolint:staticcheck // a name
	case r.Status == 403:
		return fmt.Errorf("you may not do this%s; ask for a management token, or see bridge8x8 whoami", said)
	case r.Key == "connection_is_defunct" || r.Key == "access_token_expired":
		return fmt.Errorf("8x8 no longer takes this connection%s; run bridge8x8 connections connect", said)
	case r.Status == 429 && r.RetryAfter > 0:
		return fmt.Errorf("too many requests%s; try again in %v", said, r.RetryAfter)
	case r.Status == 429:
		return fmt.Errorf("too many requests%s; try again in a moment", said)
	case r.Type == "" && r.Status/100 == 3:
		return fmt.Errorf("Membrane, or something before it, answered %d, which leads elsewhere: is MEMBRANE_API_URL %s right?", r.Status, config.MaskURL(s.env.Membrane.APIURL)) //nolint:staticcheck // a name
	case r.Type == "":
		return fmt.Errorf("Membrane, or something before it, answered %d; try again later", r.Status) //nolint:staticcheck // a name
	case r.Status >= 500:
		return fmt.Errorf("Membrane failed (%d)%s; try again later", r.Status, said) //nolint:staticcheck // a name
	case r.By8x8:
		return fmt.Errorf("8x8 refused it: %s", strings.TrimPrefix(r.Message, "8x8 said "))
	case r.Message != "":
		return fmt.Errorf("Membrane refused it%s", said) //nolint:staticcheck // a name
	}
	return fmt.Errorf("Membrane refused it (%d)", r.Status) //nolint:staticcheck // a name
}

// named writes the service's name as a name; that of a host stays as it is.
func named(message string) string { return serviceName.ReplaceAllString(message, "${1}Membrane${2}") }

var serviceName = regexp.MustCompile(`(^| )membrane($|[ '])`)

// doubt is what to do about what may have been done; where is a command of runs.
func doubt(where string) string {
	return "it may have been done all the same; look before you repeat it: bridge8x8 runs " + where
}

func isUnknown(err error) bool {
	r, ok := errors.AsType[*membrane.Refusal](err)
	return ok && r.NotFound()
}

// connection finds the connection that is meant: the one named, or
// MEMBRANE_CONNECTION, or the only one there is.
func (s *session) connection(named string) (membrane.ConnectionDetails, error) {
	if named == "" {
		named = s.env.Membrane.Connection
	}
	if named != "" {
		d, err := s.client.ConnectionDetails(s.ctx, named, 0)
		if isUnknown(err) {
			return d, s.noConnection(named)
		}
		return d, err
	}
	all, err := s.client.Connections(s.ctx, "")
	switch {
	case err != nil:
		return membrane.ConnectionDetails{}, err
	case len(all) == 1:
		return all[0], nil
	case len(all) == 0:
		return membrane.ConnectionDetails{}, errors.New("there is no connection yet; run bridge8x8 connections connect")
	}
	return membrane.ConnectionDetails{}, usagef("there are %d connections: say which with --connection %s", len(all), strings.Join(names(all), " or "))
}

func (s *session) noConnection(named string) error {
	all, err := s.client.Connections(s.ctx, "")
	if err != nil {
		return err
	}
	if near := config.Nearest(named, names(all)); near != "" {
		return fmt.Errorf("there is no connection %q; did you mean %s?", named, near)
	}
	of := ""
	if tenant := s.env.Membrane.TenantKey; s.by == bySecret && tenant != "" {
		of = fmt.Sprintf(" of tenant %q", tenant)
	}
	return fmt.Errorf("there is no connection %q%s; see bridge8x8 connections list", named, of)
}

// names are how connections are best called.
func names(all []membrane.ConnectionDetails) []string {
	var list []string
	for _, c := range all {
		list = append(list, nameOf(c))
	}
	return list
}

func nameOf(c membrane.ConnectionDetails) string {
	if c.Key != "" {
		return c.Key
	}
	return c.ID
}

// actionAt finds a connection, and an action of it by key or id.
func (s *session) actionAt(connection, named string) (membrane.ConnectionDetails, membrane.ActionDetails, error) {
	c, err := s.connection(connection)
	if err != nil {
		return c, membrane.ActionDetails{}, err
	}
	a, err := s.action(c, named)
	return c, a, err
}

// action finds an action of a connection by key or id.
func (s *session) action(c membrane.ConnectionDetails, named string) (membrane.ActionDetails, error) {
	d, err := s.client.ActionDetails(s.ctx, c.ID, named, 0)
	if !isUnknown(err) {
		return d, err
	}
	all, err := s.client.Actions(s.ctx, c.ID, "", 0)
	if err != nil {
		return d, err
	}
	var keys []string
	for _, a := range all {
		if a.Key != "" {
			keys = append(keys, a.Key)
		}
	}
	slices.Sort(keys)
	if near := config.Nearest(named, keys); near != "" {
		return d, fmt.Errorf("there is no action %q; did you mean %s?", named, near)
	}
	return d, fmt.Errorf("there is no action %q; find one with: bridge8x8 actions search \"what it is to do\"", named)
}

// printJSON prints a value whose fields are stable.
func (s *session) printJSON(value any) error { return printJSON(s.cmd.OutOrStdout(), value) }

// printTable prints rows under their headings; an empty cell shows as "-".
func (s *session) printTable(headings []string, rows [][]string) error {
	w := tabwriter.NewWriter(s.cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{headings}, rows...) {
		for i, cell := range row {
			if cell == "" {
				cell = "-"
			}
			if i > 0 {
				_, _ = io.WriteString(w, "\t")
			}
			_, _ = io.WriteString(w, membrane.Printable(cell))
		}
		_, _ = io.WriteString(w, "\n")
	}
	return w.Flush()
}

// facts prints what is known of one thing, a line each; what is empty is left out.
func (s *session) facts(pairs ...string) {
	w := tabwriter.NewWriter(s.cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", pairs[i], pairs[i+1])
		}
	}
	_ = w.Flush()
}

// spin shows on a terminal, and only there, that something is waited for.
func spin(w io.Writer, what string) (stop func()) {
	if !isTerminal(w) {
		return func() {}
	}
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		began := time.Now()
		for i := 0; ; i++ {
			_, _ = fmt.Fprintf(w, "\r\x1b[K%c %s (%ds)", `|/-\`[i%4], what, int(time.Since(began).Seconds()))
			select {
			case <-done:
				_, _ = io.WriteString(w, "\r\x1b[K")
				return
			case <-tick.C:
			}
		}
	}()
	return func() { close(done); <-gone }
}

// one takes one argument, and says what it is.
func one(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usagef("%s needs %s", cmd.Name(), what)
		case len(args) > 1:
			return usagef("%s takes %s, and got %d arguments; a text with spaces needs quotes", cmd.Name(), what, len(args))
		}
		return nil
	}
}

// parent is a command that only has others below it.
func parent(cmd *cobra.Command, below ...*cobra.Command) *cobra.Command {
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(below...)
	return cmd
}

func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "print stable fields as JSON")
}

func connectionFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "connection", "", "`key or id` of the connection (default: MEMBRANE_CONNECTION, or the only one)")
}

// readArgument reads a value that is given as it is, as @file, or as - for the
// standard input. It never quotes the value.
func readArgument(cmd *cobra.Command, flag, given string) ([]byte, error) {
	const most = 10 << 20
	switch {
	case given == "-":
		b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), most+1))
		if err == nil && len(b) > most {
			err = errors.New("it is larger than 10 MB")
		}
		if err != nil {
			return nil, fmt.Errorf("%s -: %w", flag, err)
		}
		return b, nil
	case strings.HasPrefix(given, "@"):
		b, err := os.ReadFile(given[1:])
		if failed, ok := errors.AsType[*fs.PathError](err); ok {
			return nil, fmt.Errorf("%s %s cannot be read: %w", flag, given, failed.Err) // its text would name the file again
		}
		return b, err
	}
	return []byte(given), nil
}

func troubles(list []membrane.Trouble) string {
	var texts []string
	for _, t := range list {
		switch {
		case t.Message != "":
			texts = append(texts, t.Message)
		case t.Key != "" || t.Type != "":
			texts = append(texts, strings.TrimSpace(t.Type+" "+t.Key))
		}
	}
	return strings.Join(texts, "; ")
}

func because(list []membrane.Trouble) string {
	if text := troubles(list); text != "" {
		return ": " + text
	}
	return ""
}
