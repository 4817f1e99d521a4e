package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func newRequest() *cobra.Command {
	var asJSON bool
	var connection, data string
	var headers []string
	cmd := &cobra.Command{
		Use: "request <method> <path>", Short: "call 8x8's own API through a connection",
		Long: `Makes a request of 8x8's own API, which Membrane signs with the connection's
credentials, and prints the answer's body. For what no action covers. It is made once.
Exit code 0 if 8x8 answered below 400, else 1.`,
		Example: `  bridge8x8 request GET /api/v1/accounts/AcmeCo_1aB2c/balance
  bridge8x8 request POST /api/v1/subaccounts/acme_hq/messages --data @sms.json --json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("request needs a method and a path, such as: GET /api/v1/accounts/AcmeCo_1aB2c/balance")
			}
			return nil
		},
	}
	cmd.RunE = membraneCommand(func(s *session, args []string) error {
		method, path := strings.ToUpper(args[0]), args[1]
		methods := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
		switch {
		case !slices.Contains(methods, method):
			return usagef("%q is no method to use here: want %s", args[0], strings.Join(methods, ", "))
		case !strings.HasPrefix(path, "/"):
			return usagef("%q is no path: it begins with a /, and the connection knows the host", path)
		case strings.Contains(path, "#") || slices.Contains(strings.Split(strings.SplitN(path, "?", 2)[0], "/"), ".."):
			return usagef("%q is no path to ask for: leave out .. and #", path)
		}
		extra := http.Header{}
		for _, h := range headers {
			name, value, ok := strings.Cut(h, ":")
			name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))
			switch {
			case !ok || name == "" || strings.ContainsAny(name, " \r\n\x00") || strings.ContainsAny(value, "\r\n\x00"):
				return usagef("--header is not 'Name: value'") // its value may be a secret
			case name == "Authorization" || name == "Host" || name == "Content-Length":
				return usagef("--header %s: Membrane sets it", name)
			}
			extra.Add(name, strings.TrimSpace(value))
		}
		var body []byte
		if data != "" {
			var err error
			if body, err = readArgument(cmd, "--data", data); err != nil {
				return err
			}
			if extra.Get("Content-Type") == "" && !json.Valid(body) {
				return usagef("--data is not JSON; say what it is with --header 'Content-Type: …'")
			}
		}
		c, err := s.connection(connection)
		if err != nil {
			return err
		}
		got, err := s.client.Proxy(s.ctx, c.ID, method, path, extra, body)
		if err != nil {
			return err
		}
		switch {
		case asJSON:
			err = s.printJSON(requestAnswer(got.Status, got.Header, got.Body))
		case json.Valid(got.Body):
			err = s.printRaw(got.Body)
		default:
			_, err = cmd.OutOrStdout().Write(got.Body)
		}
		if err == nil && got.Status >= http.StatusBadRequest {
			err = fmt.Errorf("8x8 answered %d %s", got.Status, http.StatusText(got.Status))
		}
		return err
	})
	connectionFlag(cmd, &connection)
	cmd.Flags().StringVar(&data, "data", "", "the body: `JSON`, @file, or - for the standard input")
	cmd.Flags().StringArrayVar(&headers, "header", nil, "a header, `'Name: value'`; may be repeated")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// answered is an answer of 8x8; its JSON is stable. Body is JSON as it came, or
// else a string.
type answered struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers"`
	Body    any               `json:"body"`
}

func requestAnswer(status int, header http.Header, body []byte) answered {
	a := answered{Status: status, Headers: map[string]string{}}
	for name, values := range header {
		a.Headers[strings.ToLower(name)] = strings.Join(values, ", ")
	}
	switch {
	case len(body) == 0:
	case json.Valid(body):
		a.Body = json.RawMessage(body)
	default:
		a.Body = string(body)
	}
	return a
}
