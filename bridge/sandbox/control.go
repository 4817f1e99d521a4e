package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
)

const help = `This is the bridge8x8 sandbox: Membrane and 8x8, pretended. Nothing is ever sent.

Membrane's API is at /, with the token ` + Token + `, the connection ` + ConnectionKey + `. Try

  GET    /actions                    POST   /act

The controls need no token:

  GET    /_sandbox/effects           what happened at 8x8; ?count=true gives the number
  GET    /_sandbox/messages          every SMS, its state and its receipts
  GET    /_sandbox/faults            the rules of failure that are left
  POST   /_sandbox/faults            adds a rule, or a list: {"kind":"refuse","times":3,"tenant":"acme"}
  DELETE /_sandbox/faults            removes them all, or with ?tenant= those about a tenant
  POST   /_sandbox/inbound           a phone sends an SMS: {"source":"+12025550101","body":"YES"}
  POST   /_sandbox/run-logs          what becomes of run logs: {"mode":"on"}, off, late or hidden
  GET    /_sandbox/webhook           where receipts are posted
  POST   /_sandbox/webhook           sets it: {"url":"http://…","authorization":"Bearer …"}
  POST   /_sandbox/builds            how the next thing that is built ends: {"state":"SETUP_FAILED","message":"…"}
  POST   /_sandbox/connections/{key} puts a connection into a state: {"state":"CLIENT_ACTION_REQUIRED"}
  POST   /_sandbox/credentials       changes the ways in: {"token":"pat-…","workspaceSecret":"…"}; the old ones are refused
  POST   /_sandbox/reset             forgets everything except the webhook and the credentials
`

func (s *Server) controlRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, "text/plain; charset=utf-8", help)
	})
	mux.HandleFunc("/_sandbox/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_sandbox/" {
			writeText(w, http.StatusOK, "text/plain; charset=utf-8", help)
			return
		}
		writeControl(w, http.StatusNotFound, "no such control: "+r.Method+" "+r.URL.Path+"; GET /_sandbox/ lists them")
	})
	mux.HandleFunc("GET /_sandbox/effects", s.controlEffects)
	mux.HandleFunc("GET /_sandbox/messages", s.controlMessages)
	mux.HandleFunc("GET /_sandbox/faults", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"items": s.world.Load().faults.list()})
	})
	mux.HandleFunc("POST /_sandbox/faults", s.controlFaults)
	mux.HandleFunc("DELETE /_sandbox/faults", func(w http.ResponseWriter, r *http.Request) {
		s.ClearFaults(r.URL.Query().Get("tenant"))
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /_sandbox/inbound", s.controlInbound)
	mux.HandleFunc("GET /_sandbox/webhook", func(w http.ResponseWriter, _ *http.Request) {
		answer := map[string]string{"url": s.webhook.Load().url}
		if s.webhook.Load().authorization != "" {
			answer["authorization"] = "***" // as 8x8 masks it
		}
		writeJSON(w, http.StatusOK, answer)
	})
	mux.HandleFunc("POST /_sandbox/webhook", s.controlWebhook)
	mux.HandleFunc("POST /_sandbox/credentials", s.controlCredentials)
	mux.HandleFunc("POST /_sandbox/run-logs", func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Mode RunLogs `json:"mode"`
		}
		err := readControl(w, r, &body)
		if err == nil && !body.Mode.Valid() {
			err = errors.New("mode: want on, off, late or hidden")
		}
		if err != nil {
			writeControl(w, http.StatusBadRequest, err.Error())
			return
		}
		s.SetRunLogs(body.Mode)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /_sandbox/builds", s.controlBuilds)
	mux.HandleFunc("POST /_sandbox/connections/{connection}", s.controlConnection)
	mux.HandleFunc("POST /_sandbox/reset", func(w http.ResponseWriter, _ *http.Request) {
		s.Reset()
		w.WriteHeader(http.StatusNoContent)
	})
}

// writeControl answers for the controls, which are ours: not in Membrane's envelope.
func writeControl(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]string{"message": message})
}

// readControl decodes a control's body strictly.
func readControl(w http.ResponseWriter, r *http.Request, into any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return errors.New("the body could not be read, or is larger than 10 MB")
	}
	return decodeStrict(body, into)
}

func decodeStrict(body []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return errors.New("the body cannot be read: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("the body cannot be read: something follows the JSON value")
	}
	return nil
}

func (s *Server) controlEffects(w http.ResponseWriter, r *http.Request) {
	effects := &s.world.Load().effects
	count, _, failed := readBool(r.URL.Query(), "count")
	switch {
	case failed != nil:
		writeControl(w, http.StatusBadRequest, failed.Message)
	case count:
		writeJSON(w, http.StatusOK, map[string]int{"count": effects.count()})
	default:
		writeJSON(w, http.StatusOK, map[string]any{"items": append([]Effect{}, effects.all()...)})
	}
}

func (s *Server) controlFaults(w http.ResponseWriter, r *http.Request) {
	var body json.RawMessage
	err := readControl(w, r, &body)
	var rules []Fault
	if err == nil {
		if bytes.HasPrefix(body, []byte("[")) {
			err = decodeStrict(body, &rules)
		} else {
			rules = make([]Fault, 1)
			err = decodeStrict(body, &rules[0])
		}
	}
	if err == nil {
		err = s.world.Load().faults.add(rules...)
	}
	if err != nil {
		writeControl(w, http.StatusBadRequest, err.Error())
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"items": s.world.Load().faults.list()})
}

func (s *Server) controlInbound(w http.ResponseWriter, r *http.Request) {
	var body inboundRequest
	err := readControl(w, r, &body)
	var umid string
	if err == nil {
		umid, err = s.inbound(body)
	}
	if err != nil {
		writeControl(w, http.StatusBadRequest, err.Error())
		return
	}
	writeJSON(w, http.StatusAccepted, map[string]string{"umid": umid})
}

func (s *Server) controlWebhook(w http.ResponseWriter, r *http.Request) {
	var body struct {
		URL           string `json:"url"`
		Authorization string `json:"authorization"`
		SubAccountID  string `json:"subAccountId"` // empty: the account's
	}
	err := readControl(w, r, &body)
	if err == nil && body.URL != "" && !isURL(body.URL) {
		err = errors.New("url must be an http or https URL, or empty to post nothing")
	}
	if err != nil {
		writeControl(w, http.StatusBadRequest, err.Error())
		return
	}
	s.setWebhook(body.SubAccountID, webhook{body.URL, body.Authorization})
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) controlCredentials(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Token           string `json:"token"`
		WorkspaceSecret string `json:"workspaceSecret"`
	}
	if err := readControl(w, r, &body); err != nil {
		writeControl(w, http.StatusBadRequest, err.Error())
		return
	}
	s.SetCredentials(body.Token, body.WorkspaceSecret)
	w.WriteHeader(http.StatusNoContent)
}

// messageView is one SMS, unmasked: all of it is made up.
type messageView struct {
	Umid            string        `json:"umid"`
	Direction       string        `json:"direction"`
	BatchID         string        `json:"batchId,omitempty"`
	ClientMessageID *string       `json:"clientMessageId,omitempty"`
	ClientBatchID   *string       `json:"clientBatchId,omitempty"`
	SubAccountID    string        `json:"subAccountId"`
	Source          string        `json:"source"`
	Destination     string        `json:"destination"`
	Text            string        `json:"text"`
	Encoding        string        `json:"encoding"`
	SMSCount        int           `json:"smsCount"`
	CreatedAt       string        `json:"createdAt"`
	Status          messageStatus `json:"status"`
	Webhooks        []webhookView `json:"webhooks,omitempty"`
}

// webhookView is what became of one webhook about a message.
type webhookView struct {
	State    string `json:"state,omitempty"` // of the message, in a receipt
	Posts    int    `json:"posts"`
	Status   int    `json:"status,omitempty"` // HTTP status of the last post; none if there was no answer
	Accepted bool   `json:"accepted"`
}

func (s *Server) controlMessages(w http.ResponseWriter, _ *http.Request) {
	a := s.world.Load().account
	now := s.opts.Now()
	a.mu.Lock()
	order := slices.Clip(a.order)
	a.mu.Unlock()
	items := make([]messageView, 0, len(order))
	for _, m := range order {
		view := messageView{
			Umid: m.umid, Direction: "outbound", BatchID: m.batchID, ClientMessageID: m.clientMessageID, ClientBatchID: m.clientBatchID,
			SubAccountID: m.subAccountID, Source: m.source, Destination: m.destination, Text: m.text, Encoding: m.encoding,
			SMSCount: m.smsCount, CreatedAt: timestamp(m.createdAt), Status: m.now(now).status(),
		}
		if m.inbound {
			view.Direction = "inbound"
		}
		for _, n := range m.receipts {
			n.mu.Lock()
			view.Webhooks = append(view.Webhooks, webhookView{State: n.state, Posts: n.posts, Status: n.status, Accepted: n.accepted})
			n.mu.Unlock()
		}
		items = append(items, view)
	}
	writeJSON(w, http.StatusOK, map[string]any{"items": items})
}
