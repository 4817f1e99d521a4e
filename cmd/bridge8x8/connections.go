package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bridge8x8/bridge8x8/bridge/membrane"
)

func newConnections() *cobra.Command {
	return parent(&cobra.Command{
		Use: "connections", Short: "the connections to 8x8",
		Long: `Lists, makes and checks connections: a tenant's links to 8x8, over which actions run.`,
		Example: `  bridge8x8 connections list
  bridge8x8 connections connect
  bridge8x8 connections test 8x8-main`,
	}, connectionsList(), connectionsShow(), connectionsConnect(), connectionsWait(), connectionsTest())
}

func connectionsList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "list the connections", Args: noArgs,
		Long:    "Lists the tenant's connections.",
		Example: "  bridge8x8 connections list\n  bridge8x8 connections list --json",
	}
	cmd.RunE = membraneCommand(func(s *session, _ []string) error {
		all, err := s.client.Connections(s.ctx, "")
		if err != nil {
			return err
		}
		if asJSON {
			return s.printJSON(map[string]any{"items": all})
		}
		if len(all) == 0 {
			cmd.Println("there is no connection yet; run bridge8x8 connections connect")
			return nil
		}
		var rows [][]string
		for _, c := range all {
			rows = append(rows, []string{c.Key, c.ID, c.Name, c.State, yes(c.Ready), c.Problem})
		}
		return s.printTable([]string{"KEY", "ID", "NAME", "STATE", "READY", "PROBLEM"}, rows)
	})
	jsonFlag(cmd, &asJSON)
	return cmd
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func connectionsShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show <key or id>", Short: "show a connection, and what to do about it", Args: one("the key or id of a connection"),
		Long:    "Shows a connection and, where it cannot be used, what to do next.",
		Example: "  bridge8x8 connections show 8x8-main",
	}
	cmd.RunE = membraneCommand(func(s *session, args []string) error {
		c, err := s.connection(args[0])
		if err != nil {
			return err
		}
		return s.showConnection(c, asJSON)
	})
	jsonFlag(cmd, &asJSON)
	return cmd
}

func (s *session) showConnection(c membrane.ConnectionDetails, asJSON bool) error {
	if asJSON {
		return s.printJSON(c)
	}
	s.facts("key", c.Key, "id", c.ID, "name", c.Name, "state", c.State, "ready", yes(c.Ready), "problem", c.Problem,
		"created", c.CreatedAt, "updated", c.UpdatedAt)
	if !c.Ready {
		s.cmd.Printf("\n%s\n", connectionAdvice(c))
	}
	return nil
}

// connectionAdvice says why a connection cannot be used, and what to do next.
func connectionAdvice(c membrane.ConnectionDetails) string {
	again := "run bridge8x8 connections connect --connection " + nameOf(c)
	switch c.State {
	case membrane.StateBuilding:
		return fmt.Sprintf("connection %s is still being built; run bridge8x8 connections wait %s", nameOf(c), nameOf(c))
	case membrane.StateClientAction:
		what := "a person has to sign in to 8x8 again"
		if a := c.ClientAction; a != nil {
			what = cmp.Or(strings.TrimRight(a.Description, ". "), what)
			if a.UIURL != "" {
				again = "open " + a.UIURL + " or " + again
			}
		}
		return fmt.Sprintf("connection %s waits for a person: %s; %s", nameOf(c), what, again)
	case membrane.StateConfiguration:
		return fmt.Sprintf("connection %s has wrong settings%s; change them in Membrane's console, then run bridge8x8 connections wait %s", nameOf(c), because(c.Errors), nameOf(c))
	case membrane.StateSetupFailed:
		return fmt.Sprintf("connection %s could not be set up%s; %s", nameOf(c), because(c.Errors), again)
	}
	return fmt.Sprintf("connection %s cannot be used: %s; %s", nameOf(c), cmp.Or(c.Problem, "its state is "+c.State), again)
}

func connectionsWait() *cobra.Command {
	var asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "wait <key or id>", Short: "wait until a connection is built", Args: one("the key or id of a connection"),
		Long: `Waits while a connection is BUILDING. Exit code 0 if it can be used then, else 1, with
what to do next.`,
		Example: "  bridge8x8 connections wait 8x8-main --timeout 2m",
	}
	cmd.RunE = membraneCommand(func(s *session, args []string) error {
		c, err := s.connection(args[0])
		if err != nil {
			return err
		}
		return s.waitConnection(c, timeout, asJSON)
	})
	jsonFlag(cmd, &asJSON)
	timeoutFlag(cmd, &timeout, 5*time.Minute)
	return cmd
}

func timeoutFlag(cmd *cobra.Command, to *time.Duration, by time.Duration) {
	cmd.Flags().DurationVar(to, "timeout", by, "how long to wait")
}

// built reads something again and again, each time as long as the service
// holds the answer, while it is being built and there is time.
func built[T any](s *session, what, waiting string, timeout time.Duration, now T, building func(T) bool, read func(context.Context, time.Duration) (T, error)) (T, error) {
	if timeout <= 0 {
		return now, usagef("--timeout %v: must be longer than nothing", timeout)
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	stop := spin(s.cmd.ErrOrStderr(), "waiting for "+what)
	defer stop()
	for building(now) {
		deadline, _ := ctx.Deadline()
		began := time.Now()
		next, err := read(ctx, time.Until(deadline))
		if ctx.Err() != nil && s.ctx.Err() == nil {
			return now, fmt.Errorf("%s is still being built after %v; go on waiting with: bridge8x8 %s", what, timeout, waiting)
		}
		if err != nil {
			return now, err
		}
		now = next
		// A service that does not hold its answers must not be asked without a pause.
		if pause := time.Second - time.Since(began); building(now) && pause > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}
	return now, nil
}

func (s *session) waitConnection(c membrane.ConnectionDetails, timeout time.Duration, asJSON bool) error {
	c, err := built(s, "connection "+nameOf(c), "connections wait "+nameOf(c), timeout, c,
		func(c membrane.ConnectionDetails) bool { return c.State == membrane.StateBuilding },
		func(ctx context.Context, left time.Duration) (membrane.ConnectionDetails, error) {
			return s.client.ConnectionDetails(ctx, c.ID, left)
		})
	if err != nil {
		return err
	}
	if asJSON {
		if err := s.printJSON(c); err != nil || c.Ready {
			return err
		}
		return errSilent
	}
	if !c.Ready {
		return errors.New(connectionAdvice(c))
	}
	s.cmd.Printf("connection %s is ready (id %s)\n", nameOf(c), c.ID)
	return nil
}

func connectionsTest() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "test <key or id>", Short: "have Membrane try a connection", Args: one("the key or id of a connection"),
		Long:    "Has Membrane try a connection. Exit code 0 if 8x8 takes it, else 1.",
		Example: "  bridge8x8 connections test 8x8-main",
	}
	cmd.RunE = membraneCommand(func(s *session, args []string) error {
		c, err := s.connection(args[0])
		if err != nil {
			return err
		}
		good, err := s.client.TestConnection(s.ctx, c.ID)
		if err != nil {
			return err
		}
		if asJSON {
			if err := s.printJSON(map[string]any{"id": c.ID, "key": c.Key, "success": good}); err != nil || good {
				return err
			}
			return errSilent
		}
		if !good {
			if !c.Ready {
				return errors.New(connectionAdvice(c))
			}
			return fmt.Errorf("8x8 does not take connection %s; run bridge8x8 connections connect --connection %s", nameOf(c), nameOf(c))
		}
		cmd.Printf("connection %s works\n", nameOf(c))
		return nil
	})
	jsonFlag(cmd, &asJSON)
	return cmd
}

type connectFlags struct {
	connector, connection, key, name string
	again, noBrowser, wait, json     bool
	timeout                          time.Duration
}

func connectionsConnect() *cobra.Command {
	var f connectFlags
	cmd := &cobra.Command{
		Use: "connect", Short: "connect 8x8, or connect it again", Args: noArgs,
		Long: `Asks Membrane for a page on which a person connects 8x8, opens it or prints its
address, waits, and prints the connection's id. A connection that is there and cannot
be used is connected again, so that its key and all that refers to it stay good; one
that works is left alone. A further one is made only for a --key that no connection has.`,
		Example: `  bridge8x8 connections connect
  bridge8x8 connections connect --connector 8x8 --key 8x8-main
  bridge8x8 connections connect --connection 8x8-main --again`,
	}
	cmd.RunE = membraneCommand(func(s *session, _ []string) error {
		if f.connection != "" && f.key != "" {
			return usagef("--connection is a connection that there is, --key that of a new one: give one of the two")
		}
		if f.timeout <= 0 {
			return usagef("--timeout %v: must be longer than nothing", f.timeout)
		}
		return s.connect(f)
	})
	flags := cmd.Flags()
	flags.StringVar(&f.connector, "connector", "8x8", "`key` of Membrane's connector")
	flags.StringVar(&f.connection, "connection", "", "`key or id` of a connection to connect again")
	flags.StringVar(&f.key, "key", "", "`key` of the connection; made if there is none")
	flags.StringVar(&f.name, "name", "", "name of a new connection")
	flags.BoolVar(&f.again, "again", false, "also if it works")
	flags.BoolVar(&f.noBrowser, "no-browser", false, "print the address, and open nothing")
	flags.BoolVar(&f.wait, "wait", true, "wait for the person, and until the connection is built; --wait=false ends with the address, for somebody else")
	timeoutFlag(cmd, &f.timeout, 10*time.Minute)
	jsonFlag(cmd, &f.json)
	return cmd
}

// existing is the connection to connect again; false if there is none.
func (s *session) existing(f connectFlags) (membrane.ConnectionDetails, bool, error) {
	if f.connection != "" {
		c, err := s.connection(f.connection)
		return c, err == nil, err
	}
	fits, err := s.client.Connections(s.ctx, f.connector)
	if err != nil {
		return membrane.ConnectionDetails{}, false, err
	}
	if f.key != "" || len(fits) == 0 {
		// A connection need not belong to an integration of the connector's name: then
		// its own key or name tells. A second one beside it would break what refers to it.
		all, err := s.client.Connections(s.ctx, "")
		if err != nil {
			return membrane.ConnectionDetails{}, false, err
		}
		fits = slices.DeleteFunc(all, func(c membrane.ConnectionDetails) bool {
			if f.key != "" {
				return c.Key != f.key
			}
			return !strings.Contains(strings.ToLower(c.Key+" "+c.Name), strings.ToLower(f.connector))
		})
	}
	switch {
	case len(fits) > 1:
		return fits[0], false, usagef("there are %d connections of %s: say which with --connection, or make one more with --key", len(fits), f.connector)
	case len(fits) == 1:
		return fits[0], true, nil
	}
	return membrane.ConnectionDetails{}, false, nil
}

func (s *session) connect(f connectFlags) error {
	old, there, err := s.existing(f)
	if err != nil {
		return err
	}
	ask := membrane.NewConnection{ConnectorKey: f.connector, ConnectionKey: f.key, Name: f.name, Another: f.key != ""}
	switch {
	case there && old.State == membrane.StateBuilding && !f.again:
		return s.waitConnection(old, f.timeout, f.json)
	case there && old.Ready && !f.again:
		if f.json {
			return s.printJSON(old)
		}
		s.cmd.Printf("connection %s is ready (id %s); to connect it again all the same: --again\n", nameOf(old), old.ID)
		return nil
	case there:
		ask = membrane.NewConnection{ConnectionID: old.ID}
	}
	request, err := s.client.RequestConnection(s.ctx, ask)
	if isUnknown(err) && !there {
		return fmt.Errorf("Membrane has no connector %q; try --connector 8x8", f.connector) //nolint:staticcheck // a name
	}
	if err != nil {
		return err
	}
	if !f.wait {
		if f.json {
			return s.printJSON(request)
		}
		s.cmd.Printf("open this address in a browser, and connect 8x8 there:\n\n  %s\n", request.URL)
		return nil
	}
	if !f.noBrowser && openBrowser(s.ctx, request.URL) {
		s.cmd.PrintErrf("your browser is open; if it is not, open this address:\n\n  %s\n\n", request.URL)
	} else {
		s.cmd.PrintErrf("open this address in a browser, and connect 8x8 there:\n\n  %s\n\n", request.URL)
	}
	began := time.Now()
	request, err = s.awaitRequest(request, f.timeout)
	if err != nil {
		return err
	}
	c, err := s.client.ConnectionDetails(s.ctx, cmp.Or(request.ConnectionID, old.ID), 0)
	if err != nil {
		return err
	}
	return s.waitConnection(c, max(f.timeout-time.Since(began), time.Second), f.json)
}

// askEvery is how often a connection request is looked at: there is no long poll for it.
const askEvery = time.Second

func (s *session) awaitRequest(request membrane.ConnectionRequest, timeout time.Duration) (membrane.ConnectionRequest, error) {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	stop := spin(s.cmd.ErrOrStderr(), "waiting for a person to connect")
	defer stop()
	again := time.NewTicker(askEvery)
	defer again.Stop()
	for {
		now, err := s.client.ConnectionRequest(ctx, request.ID)
		switch {
		case ctx.Err() != nil && s.ctx.Err() == nil: // its time is over
			return request, fmt.Errorf("nobody connected within %v; the address stays good for now, or run bridge8x8 connections connect again", timeout)
		case err != nil:
			return request, err
		case now.Status == membrane.RequestSuccess:
			return now, nil
		case now.Status == membrane.RequestCancelled:
			return now, errors.New("the person cancelled; run bridge8x8 connections connect again")
		case now.Status == membrane.RequestError:
			why := ""
			if now.Error != nil {
				why = because([]membrane.Trouble{*now.Error})
			}
			return now, fmt.Errorf("8x8 could not be connected%s; run bridge8x8 connections connect again", why)
		}
		select {
		case <-ctx.Done():
		case <-again.C:
		}
	}
}
