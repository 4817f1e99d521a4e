package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/membrane/signin"
	"github.com/bridge8x8/bridge8x8/config"
)

func newLogin() *cobra.Command {
	var ask signin.Ask
	var noBrowser, asJSON bool
	var timeout time.Duration
	var completeJSON bool
	cmd := &cobra.Command{
		Use: "login", Short: "sign in to Membrane", Args: noArgs,
		Long: `Signs you in to Membrane at MEMBRANE_API_URL: it opens your browser, or prints the
address to open, and waits for you there. The sign-in is kept in your configuration
folder, for you alone, is renewed by itself, and is used by every command, serve too.
MEMBRANE_TOKEN and the other variables win over it.

On a machine without a browser use --no-browser, open the address elsewhere, and bring
the code back: bridge8x8 login complete.`,
		Example: `  bridge8x8 login
  bridge8x8 login --no-browser
  bridge8x8 login --no-browser --json | jq -r .url
  bridge8x8 login complete 'http://127.0.0.1:34567/callback?code=…'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout <= 0 {
				return usagef("--timeout %v: must be longer than nothing", timeout)
			}
			return login(cmd, ask, noBrowser, asJSON, timeout)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&ask.Tenant, "tenant", false, "ask for a token of one tenant, which can do no more than that tenant")
	f.StringVar(&ask.ClientName, "client-name", "bridge8x8", "`name` that you are shown where you agree")
	f.BoolVar(&noBrowser, "no-browser", false, "print the address and end; bring the code with: bridge8x8 login complete")
	f.DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for you")
	jsonFlag(cmd, &asJSON)
	complete := &cobra.Command{
		Use: "complete <code | address | ->", Short: "end a login that was begun with --no-browser", Args: one("the code, or the address that your browser ended on"),
		Long: `Ends a login that was begun with --no-browser. Give the code, or the whole address
that your browser was sent to (the page itself need not open), or - for the standard input.`,
		Example: `  bridge8x8 login complete 'http://127.0.0.1:34567/callback?code=…&state=…'
  bridge8x8 login complete - < code`,
		RunE: func(cmd *cobra.Command, args []string) error { return loginComplete(cmd, args[0], completeJSON) },
	}
	jsonFlag(complete, &completeJSON)
	cmd.AddCommand(complete)
	return cmd
}

// loginPage is a sign-in that waits for its code; its JSON is stable.
type loginPage struct {
	URL      string `json:"url"`
	Redirect string `json:"redirect"` // where the browser goes with the code
	Until    string `json:"until"`
}

// signedInAs is what login prints; its JSON is stable.
type signedInAs struct {
	APIURL       string `json:"apiUrl"`
	Email        string `json:"email,omitempty"`
	WorkspaceKey string `json:"workspaceKey,omitempty"`
	TenantKey    string `json:"tenantKey,omitempty"`
	ExpiresAt    string `json:"expiresAt,omitempty"`
	Renews       bool   `json:"renews"`
}

// signedOut is what logout prints; its JSON is stable.
type signedOut struct {
	SignedOut bool `json:"signedOut"` // false: nobody was signed in
	Revoked   bool `json:"revoked"`   // Membrane knows
}

func login(cmd *cobra.Command, ask signin.Ask, noBrowser, asJSON bool, timeout time.Duration) error {
	env, err := environment(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	store, err := signin.UserStore()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	server := signin.Server{APIURL: apiURL(&env), UserAgent: userAgent()}
	listener, err := signin.Listen(ctx)
	if err != nil {
		return err
	}
	defer listener.Close()
	ask.Redirect = listener.Redirect()
	pending, err := server.Begin(ctx, ask)
	if err != nil {
		return err
	}
	if noBrowser {
		if err := store.SavePending(pending); err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), loginPage{pending.URL, ask.Redirect, stamp(pending.Until)})
		}
		cmd.Printf("open this address, in any browser:\n\n  %s\n\n", pending.URL)
		cmd.Printf("when you have agreed, the browser goes to %s, which need not open;\ncopy that page's address, and run:\n\n  bridge8x8 login complete '<address>'\n", ask.Redirect)
		return nil
	}
	if openBrowser(ctx, pending.URL) {
		cmd.PrintErrf("your browser is open; if it is not, open this address:\n\n  %s\n\n", pending.URL)
	} else {
		cmd.PrintErrf("open this address in a browser on this machine (elsewhere: bridge8x8 login --no-browser):\n\n  %s\n\n", pending.URL)
	}
	stop := spin(cmd.ErrOrStderr(), "waiting for you in the browser")
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	code, err := listener.Wait(waiting, &pending)
	stop()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("nobody agreed within %v; run bridge8x8 login again", timeout)
	case errors.Is(err, context.Canceled):
		return errSilent
	case err != nil:
		return err
	}
	return signedIn(cmd, server, store, pending, code, asJSON)
}

func loginComplete(cmd *cobra.Command, given string, asJSON bool) error {
	store, err := signin.UserStore()
	if err != nil {
		return err
	}
	pending, err := store.LoadPending()
	if errors.Is(err, signin.ErrNone) {
		return errors.New("no login is waiting for a code; begin one with: bridge8x8 login --no-browser")
	}
	if err != nil {
		return err
	}
	if given == "-" {
		b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64<<10))
		if err != nil {
			return fmt.Errorf("the standard input: %w", err)
		}
		given = string(b)
	}
	code, err := pending.Code(given)
	if err != nil {
		return err
	}
	return signedIn(cmd, signin.Server{APIURL: pending.APIURL, UserAgent: userAgent()}, store, pending, code, asJSON)
}

func signedIn(cmd *cobra.Command, server signin.Server, store signin.Store, pending signin.Pending, code config.Secret, asJSON bool) error {
	c, err := server.Complete(cmd.Context(), pending, code)
	if err != nil {
		return err
	}
	if err := store.Save(c); err != nil {
		return err
	}
	if err := store.DeletePending(); err != nil {
		return err
	}
	if asJSON {
		err = printJSON(cmd.OutOrStdout(), signedInAs{c.APIURL, c.Email, c.WorkspaceKey, c.TenantKey, stamp(c.ExpiresAt), c.RefreshToken != ""})
		if err != nil {
			return err
		}
	} else {
		cmd.Printf("signed in to %s%s\n", c.APIURL, asWhom(c))
	}
	for _, name := range []string{byToken, byToken + "_FILE", bySecret, bySecret + "_FILE", "MEMBRANE_WORKSPACE_KEY"} {
		if os.Getenv(name) != "" {
			cmd.PrintErrf("%s is set, and wins over this sign-in: unset it to use the sign-in\n", name)
			break
		}
	}
	return nil
}

func asWhom(c signin.Credentials) string {
	var text strings.Builder
	for _, part := range []struct{ word, is string }{{"as", c.Email}, {"workspace", c.WorkspaceKey}, {"tenant", c.TenantKey}} {
		if part.is != "" {
			text.WriteString(", " + part.word + " " + part.is)
		}
	}
	return text.String()
}

// openBrowser says whether there is a browser to open.
func openBrowser(ctx context.Context, address string) bool {
	var program string
	args := []string{address}
	switch runtime.GOOS {
	case "darwin":
		program = "open"
	case "windows":
		program, args = "rundll32", []string{"url.dll,FileProtocolHandler", address}
	default:
		if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
			return false
		}
		program = "xdg-open"
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return false
	}
	opener := exec.CommandContext(context.WithoutCancel(ctx), path, args...) //nolint:gosec // G204: the address is an https one, checked by signin
	if opener.Start() != nil {
		return false
	}
	go func() { _ = opener.Wait() }()
	return true
}

func newLogout() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "logout", Short: "forget the sign-in, here and at Membrane", Args: noArgs,
		Long: `Ends the sign-in of bridge8x8 login at Membrane, and deletes it from this machine.
What is in the environment stays as it is.`,
		Example: "  bridge8x8 logout",
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := signin.UserStore()
			if err != nil {
				return err
			}
			if err := store.DeletePending(); err != nil {
				return err
			}
			c, err := store.Load()
			switch {
			case errors.Is(err, signin.ErrNone) && asJSON:
				return printJSON(cmd.OutOrStdout(), signedOut{})
			case errors.Is(err, signin.ErrNone):
				cmd.Println("you were not signed in")
				return nil
			case err == nil:
				server := signin.Server{APIURL: c.APIURL, UserAgent: userAgent()}
				err = server.Revoke(cmd.Context(), c)
			}
			if deleted := store.Delete(); deleted != nil {
				return deleted
			}
			if err != nil {
				cmd.PrintErrf("the sign-in is deleted here, but Membrane could not be told: %v\n", err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), signedOut{SignedOut: true, Revoked: err == nil})
			}
			cmd.Println("signed out")
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// whoami is what it prints; its JSON is stable.
type whoami struct {
	APIURL       string `json:"apiUrl"`
	By           string `json:"signedInBy"`
	Email        string `json:"email,omitempty"`
	WorkspaceKey string `json:"workspaceKey,omitempty"`
	TenantKey    string `json:"tenantKey"`
	TenantID     string `json:"tenantId"`
	TenantName   string `json:"tenantName,omitempty"`
	ExpiresAt    string `json:"expiresAt,omitempty"`
	Renews       bool   `json:"renews"`
}

func newWhoami() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "whoami", Short: "who Membrane takes you for", Args: noArgs,
		Long: `Asks Membrane who you are: the workspace, the tenant, how you are signed in, and until
when. It never prints a token.`,
		Example: "  bridge8x8 whoami\n  bridge8x8 whoami --json",
	}
	cmd.RunE = membraneCommand(func(s *session, _ []string) error {
		tenant, err := s.client.Whoami(s.ctx)
		if err != nil {
			return err
		}
		w := whoami{
			APIURL: apiURL(&s.env), By: s.by, TenantKey: tenant.Key, TenantID: tenant.ID, TenantName: tenant.Name,
			WorkspaceKey: cmp.Or(tenant.WorkspaceKey, s.env.Membrane.WorkspaceKey),
		}
		until := "not known"
		switch s.by {
		case byLogin:
			source, err := loginSource(&s.env)
			if err != nil || source == nil {
				return err
			}
			c, err := source.Store.Load()
			if err != nil {
				return err
			}
			w.Email, w.Renews = c.Email, c.RefreshToken != ""
			w.WorkspaceKey = cmp.Or(w.WorkspaceKey, c.WorkspaceKey)
			w.ExpiresAt = stamp(c.ExpiresAt)
		case byToken:
			w.ExpiresAt = stamp(expiry(s.env.Membrane.Token))
		case bySecret:
			w.Renews = true
		}
		if w.ExpiresAt != "" {
			until = w.ExpiresAt
		}
		if w.Renews {
			until = strings.TrimPrefix(until+", renewed by itself", "not known, ")
		}
		if asJSON {
			return s.printJSON(w)
		}
		s.facts("api", w.APIURL, "signed in by", w.By, "email", w.Email, "workspace", w.WorkspaceKey, "tenant", w.TenantKey,
			"tenant id", w.TenantID, "tenant name", w.TenantName, "expires", until)
		return nil
	})
	jsonFlag(cmd, &asJSON)
	return cmd
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// expiry reads when a JWT ends; zero if it does not say, or is none.
func expiry(token config.Secret) time.Time {
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct{ Exp float64 }
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Exp <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0)
}
