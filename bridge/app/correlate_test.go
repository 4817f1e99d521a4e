package app_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/sandbox"
	"github.com/bridge8x8/bridge8x8/config"
)

// hook posts one of 8x8's webhooks to a bridge, and returns the status.
func hook(t *testing.T, client *http.Client, bridgeURL, body string) int {
	t.Helper()
	answer, err := bridgetest.Do(t.Context(), client, http.MethodPost, bridgeURL+"/webhooks/8x8", body, "Content-Type", "application/json")
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status
}

func receiptOf(umid, channel, state, detail string, at int) string {
	namespace := "SMS"
	if channel != "" {
		namespace, channel = "ChatApps", `"channel":"`+channel+`",`
	}
	return fmt.Sprintf(`{"namespace":%q,"eventType":"outbound_message_status_changed","payload":{"umid":%q,"subAccountId":"acme_hq",%s"status":{"state":%q,"detail":%q,"timestamp":"2026-03-01T10:00:%02dZ"}}}`,
		namespace, umid, channel, state, detail, at)
}

// Two replicas get the receipts of each message in any order, twice, and at once:
// there is one event for each distinct status, and one final state that is never
// left. A fallback to another channel has an end of its own.
func TestOutcomeOverAllReceipts(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	env := map[string]string{"NATS_URL": server.URL}
	box := bridgetest.NewSandbox(t, sandbox.Options{})
	one := bridgetest.Start(t, bridgetest.Options{Env: env, Sandbox: box})
	two := bridgetest.Start(t, bridgetest.Options{Env: env, Sandbox: box})
	b, client := watch(t, server.URL), bridgetest.Client(t)
	chains := map[string][]string{ // by umid
		"delivered": {
			receiptOf("delivered", "", "queued", "", 1), receiptOf("delivered", "", "sent", "", 2),
			receiptOf("delivered", "", "delivered", "delivered_to_operator", 3), receiptOf("delivered", "", "delivered", "delivered_to_recipient", 4),
		},
		"contradicted": { // whichever end comes first
			receiptOf("contradicted", "", "sent", "", 1), receiptOf("contradicted", "", "undelivered", "rejected_by_operator", 2),
			receiptOf("contradicted", "", "delivered", "delivered_to_recipient", 3), receiptOf("contradicted", "", "rejected", "", 4),
		},
		"fallback": {
			receiptOf("fallback", "whatsapp", "sent", "", 1), receiptOf("fallback", "WhatsApp", "undelivered", "", 2),
			receiptOf("fallback", "sms", "sent", "", 3), receiptOf("fallback", "sms", "delivered", "delivered_to_recipient", 4),
		},
	}
	const rounds = 12
	var posts []func() error
	want := 0
	for name, chain := range chains {
		for round := range rounds {
			want += len(chain)
			for _, body := range slices.Concat(chain, chain) {
				body = strings.Replace(body, `"umid":"`+name, fmt.Sprintf(`"umid":"%s-%d`, name, round), 1)
				for _, url := range []string{one.URL, two.URL} {
					posts = append(posts, func() error {
						if status := hook(t, client, url, body); status != http.StatusOK {
							return fmt.Errorf("answered %d", status)
						}
						return nil
					})
				}
			}
		}
	}
	rand.Shuffle(len(posts), func(i, j int) { posts[i], posts[j] = posts[j], posts[i] })
	if err := together(16, posts); err != nil {
		t.Fatal(err)
	}
	statuses := b.statuses()
	if len(statuses) != want {
		t.Errorf("%d events, want %d", len(statuses), want)
	}
	type final struct{ umid, channel string }
	ends := map[final]map[string]bool{}
	data := map[string]string{}
	for _, s := range statuses {
		if before, twice := data[s.ID]; twice {
			t.Errorf("one event twice:\n%s\n%s", before, s.Data)
		}
		data[s.ID] = s.Data
		var c struct{ Channel string }
		if err := json.Unmarshal([]byte(s.Data), &c); err != nil {
			t.Fatal(err)
		}
		key := final{s.UMID, strings.ToLower(c.Channel)}
		if ends[key] == nil {
			ends[key] = map[string]bool{}
		}
		if s.Outcome.Final {
			ends[key][s.Outcome.State] = true
		}
	}
	for key, states := range ends {
		name, _, _ := strings.Cut(key.umid, "-")
		wanted := map[string]string{"delivered ": "delivered", "fallback whatsapp": "undelivered", "fallback sms": "delivered"}[name+" "+key.channel]
		if len(states) != 1 || wanted != "" && !states[wanted] {
			t.Errorf("%v ended as %v, want %q", key, states, wanted)
		}
	}

	// Long after, when the stream has forgotten what it dropped, the same receipt is the
	// same event with the same data: a route that takes it has nothing to complain of.
	late := strings.Replace(chains["delivered"][1], `"umid":"delivered`, `"umid":"delivered-0`, 1)
	stream, err := b.js.Stream(t.Context(), "BRIDGE_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.Duplicates = 100 * time.Millisecond
	if _, err := b.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	bridgetest.Await(t, "a repeat that is stored again", func() error {
		if status := hook(t, client, one.URL, late); status != http.StatusOK {
			t.Fatal(status)
		}
		return b.atLeast("BRIDGE_EVENTS", want+1)
	})
	again := b.statuses()
	if s := again[len(again)-1]; data[s.ID] != s.Data {
		t.Errorf("it was %s, and is %s", data[s.ID], s.Data)
	}
}

// tie is what an event from 8x8 says of what it answers.
type tie struct{ ID, Causation, Source, Correlation string }

func (b *observed) ties(subject string) map[string]tie {
	b.t.Helper()
	ties := map[string]tie{}
	for _, m := range b.messages("BRIDGE_EVENTS", subject) {
		e, err := cloudevent.FromNATS(m.Headers(), m.Data())
		if err != nil {
			b.t.Fatal(err)
		}
		text := func(name string) string { s, _ := e.Extensions()[name].(string); return s }
		ties[e.RawID] = tie{e.RawID, text("causationid"), text("causationsource"), text("correlationid")}
	}
	return ties
}

// What an action by id has sent carries no reference of ours: 8x8's ids in its
// output lead back, also where the receipt comes before the reply, after a restart,
// and for a call. What another system has sent is taken all the same.
func TestSentWithoutOurReference(t *testing.T) {
	t.Parallel()
	var later postman
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1, AfterFunc: later.after})
	client := bridgetest.Client(t)
	answer, err := bridgetest.Do(t.Context(), client, http.MethodPost, box.URL+"/actions",
		`{"name":"Plain text","type":"api-request-to-external-app","connectionId":"`+sandbox.ConnectionID+`","config":{"request":{"method":"POST","path":"/api/v1/subaccounts/sandbox_hq/messages"}}}`,
		"Authorization", "Bearer "+sandbox.Token, "Content-Type", "application/json")
	if err != nil {
		t.Fatal(err)
	}
	var action struct{ ID string }
	if err := json.Unmarshal([]byte(answer.Body), &action); err != nil || action.ID == "" {
		t.Fatal(err, answer.Body)
	}
	o := bridgetest.Options{Sandbox: box, Dir: t.TempDir(), Env: map[string]string{"BRIDGE_HTTP_ADDR": bridgetest.FreeAddr(t)}, YAML: `
connections:
  main: {key: 8x8-sandbox}
routes:
  - name: plain
    on: com.acme.order.shipped
    run: {id: ` + action.ID + `}
    connection: main
    input: {destination: "${ .data.phone }", text: hello}
`}
	// The first reply waits until a receipt has come, which is too early for it.
	var early atomic.Int64
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		box.ServeHTTP(answer, r)
		if r.Method == http.MethodPost && early.Load() == 0 {
			for deadline := time.Now().Add(bridgetest.Deadline); early.Load() == 0 && time.Now().Before(deadline); {
				if all := messagesOf(t, box.URL); len(all) > 0 && all[0].Webhooks[0].Posts > 0 {
					early.Store(int64(all[0].Webhooks[0].Status))
				}
			}
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}))
	t.Cleanup(slow.Close)
	o.Env["MEMBRANE_API_URL"] = slow.URL
	first := bridgetest.Start(t, o)
	b := watch(t, first.NATSURL)
	publishOrders(t, b, []string{"evt-1"})
	b.awaitResults([]string{"evt-1"})
	if early.Load() != http.StatusServiceUnavailable {
		t.Errorf("a receipt before the reply is answered %d", early.Load())
	}
	sentOnes := messagesOf(t, box.URL)
	first.Stop()

	second := bridgetest.Start(t, o)
	b = watch(t, second.NATSURL)
	bridgetest.Await(t, "the receipts", func() error {
		later.again()
		if !box.Idle() {
			return errors.New("8x8 is not done")
		}
		return nil
	})
	umid := sentOnes[0].Umid
	for _, body := range []string{
		`{"namespace":"SMS","eventType":"short_url_clicked","payload":{"eventId":"click-1","umid":"` + umid + `","occurredAt":"2026-03-01T10:00:00Z"}}`,
		`{"surveyId":"s","umid":"` + umid + `","surveySubmittedAt":"2026-03-01T10:00:00Z","answers":[]}`,
		`{"namespace":"ChatApps","eventType":"inbound_message_received","payload":{"umid":"in-1","user":{"msisdn":"+12025550111"},"replyToUmid":"` + umid + `"}}`,
	} {
		if status := hook(t, client, second.URL, body); status != http.StatusOK {
			t.Errorf("%d to %s", status, body)
		}
	}
	for subject, n := range map[string]int{"sms.status": 2, "sms.clicked": 1, "sms.survey": 1, "chat.received": 1} {
		ties := b.ties("bridge.events.com.8x8." + subject)
		if len(ties) != n {
			t.Errorf("%s: %v", subject, ties)
		}
		for id, got := range ties {
			if (got != tie{id, "evt-1", "/shop", "evt-1"}) {
				t.Errorf("%s: %+v", subject, got)
			}
		}
	}

	// A call: its session is in the output, and in what 8x8 says of it later.
	faults(t, box, sandbox.Fault{Kind: sandbox.Status, After: true, Status: 200, Body: json.RawMessage(`{"output":{"sessionId":"session-1"}}`)})
	publishOrders(t, b, []string{"evt-2"})
	b.awaitResults([]string{"evt-1", "evt-2"})
	if status := hook(t, client, second.URL, `{"namespace":"VOICE","eventType":"SESSION_SUMMARY","payload":{"sessionId":"session-1","sessionStatus":"COMPLETED","endTime":"2026-03-01T10:00:00Z"}}`); status != http.StatusOK {
		t.Error(status)
	}
	if got := b.ties("bridge.events.com.8x8.voice.session_summary"); len(got) != 1 || got["session-1"] != (tie{"session-1", "evt-2", "/shop", "evt-2"}) {
		t.Errorf("%v", got)
	}

	// Another system's: it may yet be ours, and is refused, but not for ever.
	foreign := receiptOf("foreign", "", "sent", "", 1)
	began := time.Now()
	if status := hook(t, client, second.URL, foreign); status != http.StatusServiceUnavailable {
		t.Errorf("a receipt that may have come early is answered %d", status)
	}
	bridgetest.Await(t, "it to be taken", func() error {
		if status := hook(t, client, second.URL, foreign); status != http.StatusOK {
			return fmt.Errorf("it is answered %d", status)
		}
		return nil
	})
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("it was taken after %v", took)
	}
	if status := hook(t, client, second.URL, receiptOf("foreign", "", "delivered", "", 2)); status != http.StatusOK {
		t.Errorf("the next one is answered %d", status)
	}
}

// An answer from a number is tied to what was sent there last, by the routes that
// want that; nothing shows the number where it is kept.
func TestRepliesAreTied(t *testing.T) {
	t.Parallel()
	yaml := strings.Replace(bridgetest.Routes, "    connection: main\n", "    connection: main\n    replies: true\n", 1) + `
  - name: quiet
    on: com.acme.quiet
    run: send-sms
    connection: main
    input: {destination: "${ .data.phone }", text: hello}
`
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	o := bridgetest.Options{YAML: yaml, Dir: t.TempDir(), Sandbox: box}
	first := bridgetest.Start(t, o)
	b, client := watch(t, first.NATSURL), bridgetest.Client(t)
	send := func(url, id, typ, number string) {
		t.Helper()
		answer, err := bridgetest.Do(t.Context(), client, http.MethodPost, url+"/events",
			fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":%q,"subject":"9","data":{"phone":%q}}`, id, typ, number), "Content-Type", cloudevent.ContentTypeStructured)
		if err != nil || answer.Status != http.StatusAccepted {
			t.Fatal(err, answer.Body)
		}
	}
	write := func(number string) (umid string) {
		t.Helper()
		umid, err := box.Inbound(number, "", "yes")
		if err != nil {
			t.Fatal(err)
		}
		if err := box.WaitReceipts(t.Context()); err != nil {
			t.Fatal(err)
		}
		return umid
	}
	const ana, bo = "+12025550111", "+12025550112"
	nobody := write(ana)
	send(first.URL, "evt-1", "com.acme.order.shipped", ana)
	send(first.URL, "evt-2", "com.acme.order.shipped", bo)
	b.awaitResults([]string{"evt-1", "evt-2"})
	fromAna, fromBo := write(ana), write(bo)
	send(first.URL, "evt-3", "com.acme.order.shipped", ana)
	b.awaitResults([]string{"evt-1", "evt-2", "evt-3"})
	send(first.URL, "evt-4", "com.acme.quiet", ana)
	b.awaitResults([]string{"evt-1", "evt-2", "evt-3", "evt-4"})
	later := write(ana)
	first.Stop()

	second := bridgetest.Start(t, o)
	b = watch(t, second.NATSURL)
	afterRestart := write(ana)
	want := map[string]string{nobody: "", fromAna: "evt-1", fromBo: "evt-2", later: "evt-3", afterRestart: "evt-3"}
	ties := b.ties("bridge.events.com.8x8.sms.received")
	for umid, id := range want {
		wanted := tie{ID: umid}
		if id != "" {
			wanted = tie{umid, id, "/shop", id}
		}
		if ties[umid] != wanted {
			t.Errorf("got %+v, want %+v", ties[umid], wanted)
		}
	}
	for _, m := range b.messages("KV_BRIDGE_LEDGER") {
		// A record holds what 8x8 answered, numbers and all; a name holds none, and a note neither.
		if strings.Contains(m.Subject(), "2025550") || strings.Contains(m.Subject(), ".note.") && bytes.Contains(m.Data(), []byte("2025550")) {
			t.Errorf("a phone number is in the ledger: %s", m.Subject())
		}
	}
}

// The sample of automatic answers: an opt-out is noted, a question's YES is
// confirmed, and two automatic answerers do not write to each other for ever.
func TestAutoReply(t *testing.T) {
	t.Parallel()
	box := bridgetest.NewSandbox(t, sandbox.Options{ReceiptDelay: -1})
	b := bridgetest.Start(t, bridgetest.Options{
		YAML: strings.ReplaceAll(string(config.AutoReply()), "8x8-main", sandbox.ConnectionKey), Sandbox: box,
	})
	bus, client := watch(t, b.NATSURL), bridgetest.Client(t)
	control := func(number, text string) {
		t.Helper()
		answer, err := bridgetest.Do(t.Context(), client, http.MethodPost, box.URL+"/_sandbox/inbound", fmt.Sprintf(`{"source":%q,"body":%q}`, number, text))
		if err != nil || answer.Status != http.StatusAccepted {
			t.Fatal(err, answer.Body)
		}
	}
	sentTo := func(action, text string) func(n int) error {
		return func(n int) error {
			have := 0
			for _, e := range box.Effects() {
				if e.Action == action && strings.Contains(string(e.Input), text) {
					have++
				}
			}
			if have != n {
				return fmt.Errorf("%d effects of %s, want %d", have, action, n)
			}
			return nil
		}
	}
	answer, err := bridgetest.Do(t.Context(), client, http.MethodPost, b.URL+"/events",
		`{"specversion":"1.0","id":"res-7","source":"/tables","type":"com.acme.table.reserved","data":{"phone":"+12025550111","people":2,"day":"Friday"}}`,
		"Content-Type", cloudevent.ContentTypeStructured)
	if err != nil || answer.Status != http.StatusAccepted {
		t.Fatal(err, answer.Body)
	}
	bus.awaitResults([]string{"res-7"})
	control("+12025550111", "Yes!")
	bridgetest.Await(t, "the confirmation", func() error { return sentTo("send-sms", "reservation res-7 is confirmed")(1) })
	control("+12025550112", "yes") // whom nobody asked
	control("+12025550112", "unsubscribe")
	bridgetest.Await(t, "the opt-out", func() error { return sentTo("create-contact", "12025550112")(1) })

	// Whatever we write to this number is answered with a HELP, until we write no more.
	const robot = "+12025550113"
	control(robot, "help")
	answered := 0
	over := func() (n int) {
		for _, l := range bus.letters() {
			if l.Reason == "over_limit" {
				n++
			}
		}
		return n
	}
	bridgetest.Await(t, "the guard to end it", func() error {
		written := 0
		for _, e := range box.Effects() {
			if strings.Contains(string(e.Input), robot) {
				written++
			}
		}
		for ; answered < written; answered++ {
			control(robot, "HELP, I am a robot")
		}
		if over() == 0 {
			return fmt.Errorf("%d texts to it so far", written)
		}
		return nil
	})
	if err := sentTo("send-sms", robot)(3); err != nil {
		t.Error(err)
	}
	if answered != 3 || over() != 1 {
		t.Errorf("%d answers, %d dead letters", answered, over())
	}
	failed := 0
	for _, of := range bus.results() {
		for _, r := range of {
			if r.Data.Error != nil && r.Data.Error.Reason == bridge.ReasonOverLimit && r.Data.Route == "help" && r.Data.Error.Retryable {
				failed++
			}
		}
	}
	if failed != 1 {
		t.Errorf("%d failed results", failed)
	}
	// Somebody else is still answered.
	control("+12025550114", "help")
	bridgetest.Await(t, "another answer", func() error { return sentTo("send-sms", "12025550114")(1) })
	if err := sentTo("send-sms", "is confirmed")(1); err != nil {
		t.Error(err)
	}
}
