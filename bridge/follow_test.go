package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	exportRoute = `connections:
  main: {key: 8x8-main}
routes:
  - name: r
    on: com.acme.order.shipped
    run: request-sms-log-export
    connection: main
    input: {subAccountId: acme}
    then:
      run: get-sms-log-export-result
      input: {subAccountId: acme, jobId: "${ $output.jobId }", phone: "${ .data.phone }"}
      until: ${ .status == "succeeded" }
      fails: ${ .status == "failed" }
      backoff: {initial: 5s, max: 20s}
      deadline: 10m
`
	receiptRoute = oneRoute + `    then: {until: delivered, deadline: 1h}
`
)

// exports answers requests for exports, and polls for them with what each of the
// answers says, the last one for ever.
func exports(s *stage, answers ...func() (Reply, error)) *atomic.Int32 {
	var polls atomic.Int32
	s.run = func(r Request) (Reply, error) {
		if r.ActionKey == "request-sms-log-export" {
			reply := s.happen(r, 0)
			reply.Output = json.RawMessage(`{"jobId":"job-7"}`)
			return reply, nil
		}
		n := int(polls.Add(1))
		if r.Input["jobId"] != "job-7" || r.Input["phone"] != "+12025550101" {
			s.t.Errorf("polled with %v", r.Input)
		}
		return answers[min(n, len(answers))-1]()
	}
	return &polls
}

func status(status string) func() (Reply, error) {
	return func() (Reply, error) {
		return Reply{RunID: "run-poll", Output: fmt.Appendf(nil, `{"status":%q,"data":["https://example.com/1.csv"]}`, status)}, nil
	}
}

func fails(f Failure) func() (Reply, error) { return func() (Reply, error) { return Reply{}, &f } }

// followUpOf is the followUp and the error of the one result of a pair.
func followUpOf(t *testing.T, s *stage, k Key) (f ResultFollowUp, e ResultError) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.bodies[string(k)]); n != 1 {
		t.Fatalf("%d different results", n)
	}
	for body := range s.bodies[string(k)] {
		var event struct {
			CausationID string `json:"causationid"`
			Data        ResultData
		}
		if err := json.Unmarshal([]byte(body), &event); err != nil {
			t.Fatal(err)
		}
		if event.CausationID != "1" {
			t.Errorf("caused by %q", event.CausationID)
		}
		d := event.Data
		if (d.Error == nil) != (d.Output != nil) {
			t.Errorf("output %s and error %v", d.Output, d.Error)
		}
		if d.FollowUp == nil {
			t.Fatal("no followUp")
		}
		f = *d.FollowUp
		if d.Error != nil {
			e = *d.Error
		}
	}
	return f, e
}

var lostTrack = ending{State: Failed, Effects: 1, Results: 1, Dead: []Reason{ReasonFollowUpFailed}}

// A follow-up by polls ends as the answers say, on its schedule; the first
// action is never run again.
func TestFollowPolls(t *testing.T) {
	t.Parallel()
	const export = "request-sms-log-export"
	tests := map[string]struct {
		answers []func() (Reply, error)
		want    ending
		polls   int
		took    time.Duration
		output  string
		message string
	}{
		"at once":      {[]func() (Reply, error){status("succeeded")}, wentWell, 1, 5 * time.Second, `{"status":"succeeded","data":["https://example.com/1.csv"]}`, ""},
		"the fourth":   {[]func() (Reply, error){status("queued"), status("running"), status("running"), status("succeeded")}, wentWell, 4, 40 * time.Second, `{"status":"succeeded","data":["https://example.com/1.csv"]}`, ""},
		"it failed":    {[]func() (Reply, error){status("queued"), status("failed")}, lostTrack, 2, 10 * time.Second, `{"status":"failed","data":["https://example.com/1.csv"]}`, "says that it has failed"},
		"never":        {[]func() (Reply, error){status("queued")}, lostTrack, 0, 10 * time.Minute, `{"status":"queued","data":["https://example.com/1.csv"]}`, "did not come about within 10m0s"},
		"not yet here": {[]func() (Reply, error){fails(Failure{Kind: Permanent, Message: "no such job"}), status("succeeded")}, wentWell, 2, 10 * time.Second, `{"status":"succeeded","data":["https://example.com/1.csv"]}`, ""},
		"refused":      {[]func() (Reply, error){fails(Failure{Kind: Permanent, Message: "no such job"})}, lostTrack, 3, 20 * time.Second, "", "refused 3 times in a row: no such job"},
		"refused now and then": {[]func() (Reply, error){
			fails(Failure{Kind: Permanent, Message: "no"}), fails(Failure{Kind: Permanent, Message: "no"}), status("queued"),
			fails(Failure{Kind: Permanent, Message: "no"}), status("succeeded"),
		}, wentWell, 5, 60 * time.Second, `{"status":"succeeded","data":["https://example.com/1.csv"]}`, ""},
		"no answer":     {[]func() (Reply, error){func() (Reply, error) { return Reply{}, errors.New("cut off") }, status("succeeded")}, wentWell, 2, 10 * time.Second, `{"status":"succeeded","data":["https://example.com/1.csv"]}`, ""},
		"asked to wait": {[]func() (Reply, error){fails(Failure{Kind: Outage, RetryAfter: time.Minute}), status("succeeded")}, wentWell, 2, 65 * time.Second, `{"status":"succeeded","data":["https://example.com/1.csv"]}`, ""},
		"an odd answer": {[]func() (Reply, error){func() (Reply, error) { return Reply{Output: json.RawMessage(`[1]`)}, nil }}, lostTrack, 1, 5 * time.Second, "", "then.until"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := join(w)
				polls := exports(s, tt.answers...)
				b := s.bridge(t, exportRoute)
				w.publish(orderEvent("1", "+12025550101"))
				w.carry(t, b)
				k := keyOf("1", "r")
				expect(t, w, k, tt.want)
				f, e := followUpOf(t, s, k)
				if f.Action != "get-sms-log-export-result" || f.Polls != int(polls.Load()) || tt.polls != 0 && f.Polls != tt.polls {
					t.Errorf("%+v, %d polls", f, polls.Load())
				}
				if took := time.Duration(f.DurationMs) * time.Millisecond; took < tt.took || took > tt.took+30*time.Second {
					t.Errorf("it took %v, want %v and little more", took, tt.took)
				}
				if tt.output != "" && string(f.Output) != tt.output {
					t.Errorf("output %s, want %s", f.Output, tt.output)
				}
				if e.Retryable || (tt.message == "") != (e.Message == "") || !strings.Contains(e.Message, tt.message) {
					t.Errorf("error %+v, want %q", e, tt.message)
				}
				if rec := w.record(k); rec.Version != followVersion || rec.Attempts != 1 || string(rec.Output) != `{"jobId":"job-7"}` {
					t.Errorf("record %+v of %s", rec, export)
				}
			})
		})
	}
}

// Many follow an action that may be asked once a second: nobody asks more often,
// and all of them end.
func TestFollowInTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := join(w)
		var last atomic.Int64
		s.run = func(r Request) (Reply, error) {
			if r.ActionKey == "send-sms" {
				return s.happen(r, 0), nil
			}
			now := time.Now().UnixNano()
			if before := last.Swap(now); now-before < int64(time.Second) {
				t.Errorf("asked again after %v", time.Duration(now-before))
			}
			return Reply{Output: json.RawMessage(`{"umid":"0f3c","status":{"state":"delivered"}}`)}, nil
		}
		b := s.bridge(t, oneRoute+followPolls)
		const events = 100
		for i := range events {
			w.publish(orderEvent(fmt.Sprint(i), "+12025550101"))
		}
		began := time.Now()
		w.carry(t, b)
		for i := range events {
			expect(t, w, keyOf(fmt.Sprint(i), "r"), wentWell)
		}
		if took := time.Since(began); took > 3*time.Minute {
			t.Errorf("it took %v", took)
		}
		if left := len(b.turns.kept); left > 0 {
			t.Errorf("%d turns are kept", left)
		}
	})
}

// The configuration may change while a pair follows.
func TestFollowOutlivesTheConfiguration(t *testing.T) {
	t.Parallel()
	without, _, _ := strings.Cut(exportRoute, "    then:")
	other := strings.Replace(exportRoute, "name: r\n", "name: q\n", 1)
	tests := map[string]struct {
		routes  string
		want    ending
		message string
	}{
		"nothing to wait for any more": {without, wentWell, ""},
		"no such route":                {other, lostTrack, `route "r" is no longer in the configuration`},
		"renamed":                      {strings.Replace(other, "name: q\n", "name: q\n    formerly: r\n", 1), wentWell, ""},
		"awaits something else":        {strings.Replace(exportRoute, `== "succeeded"`, `!= "queued"`, 1), wentWell, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := join(w)
				var b *Bridge
				exports(s, func() (Reply, error) {
					b.SetTable(tableOf(t, tt.routes))
					return status("queued")()
				}, status("succeeded"))
				b = s.bridge(t, exportRoute)
				w.publish(orderEvent("1", "+12025550101"))
				w.carry(t, b)
				expect(t, w, keyOf("1", "r"), tt.want)
				if _, e := followUpOf(t, s, keyOf("1", "r")); !strings.Contains(e.Message, tt.message) {
					t.Errorf("error %+v, want %q", e, tt.message)
				}
			})
		})
	}
}

// A receipt ends what awaits it, whenever it comes, in whatever order.
func TestFollowReceipts(t *testing.T) {
	t.Parallel()
	said := func(outcome string, final bool) Receipt {
		return Receipt{UMID: "0f3c", State: outcome, Outcome: outcome, Final: final}
	}
	sent, delivered, read, undelivered := said("sent", false), said("delivered", true), said("read", true), said("undelivered", true)
	tests := map[string]struct {
		before, after []Receipt // the reply
		want          ending
		receipt       string
		message       string
		took          time.Duration
	}{
		"after the reply":          {nil, []Receipt{sent, delivered}, wentWell, "delivered", "", time.Second},
		"before the reply":         {[]Receipt{sent, delivered}, nil, wentWell, "delivered", "", 0},
		"the other way round":      {nil, []Receipt{delivered, sent}, wentWell, "delivered", "", time.Second},
		"around the reply":         {[]Receipt{sent}, []Receipt{delivered, delivered}, wentWell, "delivered", "", time.Second},
		"it says more than needed": {nil, []Receipt{read}, wentWell, "read", "", time.Second},
		"it was not delivered":     {nil, []Receipt{sent, undelivered, delivered}, lostTrack, "undelivered", "8x8 says undelivered, and delivered was awaited", time.Minute},
		"not delivered, and known early": {
			[]Receipt{undelivered}, nil, lostTrack, "undelivered", "8x8 says undelivered, and delivered was awaited", 0,
		},
		"none":       {nil, nil, lostTrack, "", "no receipt said delivered within 1h", time.Hour},
		"not enough": {nil, []Receipt{sent}, lostTrack, "", "no receipt said delivered within 1h", time.Hour},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := join(w)
				b := (*Bridge)(nil)
				k := keyOf("1", "r")
				come := func(receipts []Receipt) {
					for _, r := range receipts {
						if _, err := b.Receipt(t.Context(), k, w.record(k).Try, r); err != nil {
							t.Error(err)
						}
					}
				}
				s.run = func(r Request) (Reply, error) {
					reply := s.happen(r, 0)
					come(tt.before)
					time.AfterFunc(time.Second, func() { come(tt.after) })
					return reply, nil
				}
				b = s.bridge(t, receiptRoute)
				w.publish(orderEvent("1", "+12025550101"))
				w.carry(t, b)
				expect(t, w, k, tt.want)
				f, e := followUpOf(t, s, k)
				if f.Action != "" || f.Receipt != tt.receipt || !strings.Contains(e.Message, tt.message) || (tt.message == "") != (e.Message == "") {
					t.Errorf("%+v, error %+v; want %q, %q", f, e, tt.receipt, tt.message)
				}
				if took := time.Duration(f.DurationMs) * time.Millisecond; took < tt.took-time.Millisecond && tt.took <= time.Second || took > tt.took+time.Minute {
					t.Errorf("it took %v, want %v", took, tt.took)
				}
				if n := len(w.results[string(k)]); tt.want.State == Succeeded && n != 1 {
					t.Errorf("the result was published %d times", n)
				}
			})
		})
	}
}

// A result that shows something of its event waits for the message that has it.
func TestFollowShaped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := join(w)
		k := keyOf("1", "r")
		var b *Bridge
		s.run = func(r Request) (Reply, error) {
			time.AfterFunc(10*time.Second, func() {
				if _, err := b.Receipt(t.Context(), k, r.Meta.Try, Receipt{UMID: "0f3c", Outcome: "delivered", Final: true}); err != nil {
					t.Error(err)
				}
			})
			return s.happen(r, 0), nil
		}
		b = s.bridge(t, receiptRoute+"    result: {data: {to: \"${ .event.data.phone }\", how: \"${ .result.followUp.receipt }\"}}\n")
		w.publish(orderEvent("1", "+12025550101"))
		w.carry(t, b)
		expect(t, w, k, wentWell)
		for body := range s.bodies[string(k)] {
			if !strings.Contains(body, `"data":{"how":"delivered","to":"+12025550101"}`) {
				t.Errorf("the result is %s", body)
			}
		}
	})
}

// What was unknown is followed once its run log shows, by a message that is made
// of its dead letter; whoever begins that may die over it.
func TestFollowLate(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"", "recorded", "resumed"} {
		t.Run("died "+step, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := join(w)
				polls := exports(s, status("queued"), status("succeeded"))
				answered := s.run
				s.run = func(r Request) (Reply, error) {
					if r.ActionKey != "request-sms-log-export" {
						return answered(r)
					}
					s.happen(r, 10*time.Minute)
					s.mu.Lock()
					s.logs[len(s.logs)-1].log.Output = json.RawMessage(`{"jobId":"job-7"}`)
					s.mu.Unlock()
					return Reply{}, &Failure{Kind: Unknown, Message: "no answer"}
				}
				b := s.bridge(t, exportRoute)
				w.publish(orderEvent("1", "+12025550101"))
				w.carry(t, b)
				k := keyOf("1", "r")
				expect(t, w, k, ending{State: UnknownSt, Effects: 1, Dead: []Reason{ReasonOutcomeUnknown}})

				dying := join(w)
				dying.run = s.run
				dead := false
				die := func() error {
					if dead {
						return errRefused
					}
					return nil
				}
				dying.hook = func(at string, _ Key) { dead = dead || at == step }
				dying.store, dying.withdraw, dying.note = die, die, die
				one := dying.bridge(t, exportRoute)
				entry := Entry{Key: k, Record: w.record(k), Revision: w.records[k].Revision}
				<-time.After(15 * time.Minute) // its log shows
				found, err := one.logsOf(t.Context(), entry.Record.frozen().Place(), entry.Record.ClaimedAt, map[string]Key{entry.Record.Try: k})
				if err != nil || len(found) != 1 {
					t.Fatal(found, err)
				}
				sw := &sweeper{b: one, known: map[Key]*swept{}}
				sw.judge(t.Context(), &swept{entry: entry}, found[entry.Record.Try], true)

				next := s.bridge(t, exportRoute)
				ctx := t.Context()
				go next.Run(ctx) // it sweeps
				<-time.After(time.Minute)
				w.carry(t, next)
				expect(t, w, k, wentWell)
				if f, _ := followUpOf(t, s, k); f.Polls != 2 || polls.Load() != 2 {
					t.Errorf("%+v, %d polls", f, polls.Load())
				}
				if len(w.unknowns) != 0 {
					t.Errorf("evidence is still looked for: %v", w.unknowns)
				}
			})
		})
	}
}

// Of two receipts, the one that says more stays.
func TestReceiptAfter(t *testing.T) {
	t.Parallel()
	order := []Receipt{
		{}, {Outcome: "sent"}, {Outcome: "delivered_to_operator"}, {Outcome: "undelivered", Final: true},
		{Outcome: "delivered", Final: true}, {Outcome: "read", Final: true},
	}
	const failed = 3
	for i, r := range order {
		for j, was := range order {
			if want := i > j && j != failed; r.After(was) != want {
				t.Errorf("%q after %q: %v", r.Outcome, was.Outcome, !want)
			}
		}
	}
	queued := Receipt{Outcome: "queued"}
	if queued.After(order[1]) || !order[1].After(queued) {
		t.Error("queued is not before sent")
	}
	if diff := cmp.Diff(false, (Receipt{Outcome: "rejected", Final: true}).After(order[failed])); diff != "" {
		t.Error("of two failures, the first stays")
	}
}
