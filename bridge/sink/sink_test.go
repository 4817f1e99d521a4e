package sink

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/config"
)

const event = `{"specversion":"1.0","id":"e-1","source":"/8x8/sms/ä","type":"com.8x8.sms.status","subject":"u-1","time":"2026-03-01T10:00:05.12Z","datacontenttype":"application/json","causationid":"evt 42","data":{"umid":"u-1"}}`

// settled is what became of a delivery.
type settled struct {
	acks, naks int
	delay      time.Duration
}

func (s *settled) Ack()                    { s.acks++ }
func (s *settled) Nak(delay time.Duration) { s.naks, s.delay = s.naks+1, delay }

func all(*cloudevent.Event) bool { return true }

func deliver(ctx context.Context, s *Sink, seq uint64, body string) *settled {
	x := &settled{}
	s.Handle(ctx, &bridge.Delivery{Stream: "S", Seq: seq, Header: map[string][]string{"Content-Type": {cloudevent.ContentTypeStructured}}, Data: []byte(body), Settle: x}, all)
	return x
}

// receiver is a sink's other end.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []*http.Request
	bodies []string
}

// receive answers each post as answer says.
func receive(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) *receiver {
	t.Helper()
	x := &receiver{}
	x.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		x.mu.Lock()
		x.got, x.bodies = append(x.got, r), append(x.bodies, string(body))
		x.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(x.Close)
	return x
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func (x *receiver) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.got)
}

func newSink(t *testing.T, url string, change ...func(*Options)) *Sink {
	t.Helper()
	o := Options{URL: url, UserAgent: "bridge8x8/test", InFlight: 2, backoff: time.Nanosecond, timeout: 10 * time.Second}
	for _, c := range change {
		c(&o)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Both content modes are read back as the event that was sent, with the
// extensions that were laid over it.
func TestModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []cloudevent.Mode{cloudevent.Binary, cloudevent.Structured} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			x := receive(t, func(w http.ResponseWriter, _ *http.Request) { // an event in the answer is nobody's
				w.Header().Set("Content-Type", cloudevent.ContentTypeStructured)
				_, _ = io.WriteString(w, event)
			})
			s := newSink(t, x.URL+"/in?key=1", func(o *Options) {
				o.Mode, o.Token, o.Extensions = mode, func() config.Secret { return "secret" }, map[string]string{"tier": "gold", "causationid": "other"}
			})
			if got := deliver(t.Context(), s, 1, event); got.acks != 1 || got.naks != 0 {
				t.Fatalf("%+v", got)
			}
			r := x.got[0]
			if r.Method != http.MethodPost || r.RequestURI != "/in?key=1" || r.Header.Get("Authorization") != "Bearer secret" || r.UserAgent() != "bridge8x8/test" {
				t.Errorf("%s %s %v", r.Method, r.RequestURI, r.Header)
			}
			if has, err := cloudevent.ModeOf(r.Header); err != nil || has != mode {
				t.Errorf("sent as %q: %v", has, err)
			}
			messages, err := cloudevent.FromHTTP(r.Header, []byte(x.bodies[0]))
			if err != nil {
				t.Fatal(err)
			}
			got, err := cloudevent.ToJSON(&messages[0].Event)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Replace(event, `"causationid":"evt 42"`, `"causationid":"other","tier":"gold"`, 1)
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What each answer means: for the event, and for those that come after it.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code   int
		want   Verdict
		paused bool
	}{
		{200, Accepted, false}, {202, Accepted, false}, {204, Accepted, false},
		{301, Unavailable, true}, {302, Unavailable, true}, {307, Unavailable, true},
		{400, Refused, false}, {409, Refused, false}, {413, Refused, false}, {415, Refused, false}, {422, Refused, false},
		{401, Unavailable, true}, {403, Unavailable, true}, {404, Unavailable, true}, {410, Unavailable, true}, {429, Unavailable, true},
		{500, Failed, false}, {501, Failed, false}, {502, Unavailable, true}, {503, Unavailable, true}, {504, Unavailable, true},
	} {
		t.Run(fmt.Sprint(test.code), func(t *testing.T) {
			t.Parallel()
			followed := receive(t, status(200))
			x := receive(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", followed.URL)
				w.WriteHeader(test.code)
			})
			var got []Verdict
			s := newSink(t, x.URL, func(o *Options) {
				o.backoff, o.Posted = time.Hour, func(v Verdict) { got = append(got, v) }
			})
			d := deliver(t.Context(), s, 1, event)
			if accepted := test.want == Accepted; d.acks == 1 != accepted || d.naks == 1 == accepted {
				t.Errorf("%+v", d)
			}
			if len(got) != 1 || got[0] != test.want || s.Paused() != test.paused || (s.Healthy() != nil) != test.paused || followed.count() != 0 {
				t.Errorf("%v, paused %v, healthy %v, %d redirects followed", got, s.Paused(), s.Healthy(), followed.count())
			}
			// Nothing is posted in a pause: it was fetched before that began.
			if d := deliver(t.Context(), s, 2, event); test.paused && (d.naks != 1 || d.delay <= 0 || x.count() != 1) {
				t.Errorf("%+v, %d posts", d, x.count())
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"120": 2 * time.Minute, "Sun, 01 Mar 2026 10:00:30 GMT": 30 * time.Second,
		"Sun, 01 Mar 2026 09:00:00 GMT": 0, "-1": 0, "soon": 0, "": 0, "999999999": mostRetryAfter, "99999999999999": 0,
	} {
		x := receive(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", text)
			w.WriteHeader(503)
		})
		s := newSink(t, x.URL, func(o *Options) { o.Now = func() time.Time { return now } })
		d := deliver(t.Context(), s, 1, event)
		if d.naks != 1 || d.delay < want || d.delay > want+time.Millisecond {
			t.Errorf("%q: comes again after %v, want %v", text, d.delay, want)
		}
	}
}

// A refused event is given up after a few posts, and the others are posted
// meanwhile; one that the sink fails over is given up only beside others that it
// accepts.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	bad := strings.Replace(event, "e-1", "bad", 1)
	for _, test := range []struct {
		code, posts int
		others      bool // others are accepted meanwhile
		over        bool
	}{
		{400, mostRefused, false, true}, {400, mostRefused, true, true},
		{500, mostFailed + 1, true, true}, {500, 100, false, false},
		{503, mostFailed + 1, true, true}, {503, 100, false, false},
	} {
		t.Run(fmt.Sprintf("%d %v", test.code, test.others), func(t *testing.T) {
			t.Parallel()
			x := receive(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("ce-id") == "bad" {
					w.WriteHeader(test.code)
				}
			})
			var given []GivenUp
			now := time.Now()
			s := newSink(t, x.URL, func(o *Options) {
				o.GivenUp = func(g GivenUp) { given = append(given, g) }
				o.Now = func() time.Time { return now }
			})
			for i := 1; i <= test.posts; i++ {
				now = now.Add(time.Hour)
				d := deliver(t.Context(), s, 7, bad)
				if over := test.over && i == test.posts; d.acks == 1 != over || d.naks == 1 == over {
					t.Fatalf("post %d: %+v", i, d)
				}
				now = now.Add(time.Hour)
				if test.others {
					if d := deliver(t.Context(), s, uint64(100+i), event); d.acks != 1 {
						t.Fatalf("another: %+v", d)
					}
				}
			}
			want := GivenUp{Type: "com.8x8.sms.status", ID: "bad", Stream: "S", Seq: 7, Why: fmt.Sprintf("it answers %d", test.code)}
			switch {
			case !test.over && len(given) != 0, test.over && len(given) != 1:
				t.Errorf("given up: %+v", given)
			case test.over:
				want.Verdict = given[0].Verdict
				if diff := cmp.Diff(want, given[0]); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// Nobody there, nobody who answers, and an answer that never ends.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	var changes []string
	s := newSink(t, gone.URL, func(o *Options) { o.State = func(down error) { changes = append(changes, fmt.Sprint(down != nil)) } })
	if d := deliver(t.Context(), s, 1, event); d.naks != 1 || s.Healthy() == nil || len(changes) != 1 {
		t.Errorf("nobody there: %+v, %v, %v", d, s.Healthy(), changes)
	}

	quit := make(chan struct{})
	silent := receive(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-quit:
		}
	})
	defer close(quit)
	var verdicts []Verdict
	s = newSink(t, silent.URL, func(o *Options) {
		o.timeout, o.Posted = 50*time.Millisecond, func(v Verdict) { verdicts = append(verdicts, v) }
	})
	if d := deliver(t.Context(), s, 1, event); d.naks != 1 || len(verdicts) != 1 || verdicts[0] != Failed {
		t.Errorf("no answer: %+v, %v", d, verdicts)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s = newSink(t, silent.URL)
	go func() {
		for silent.count() < 2 {
			select {
			case <-time.After(time.Millisecond):
			case <-quit:
				return
			}
		}
		cancel()
	}()
	if d := deliver(ctx, s, 1, event); d.naks != 1 || d.delay != 0 || s.Healthy() != nil {
		t.Errorf("stopped: %+v, %v", d, s.Healthy())
	}

	endless := receive(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	s = newSink(t, endless.URL)
	if d := deliver(t.Context(), s, 1, event); d.acks != 1 {
		t.Errorf("an answer without end: %+v", d)
	}
}

// A certificate that the system does not know is no sink.
func TestTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(status(202)))
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	s := newSink(t, server.URL)
	if d := deliver(t.Context(), s, 1, event); d.naks != 1 || s.Healthy() == nil || !strings.Contains(s.Healthy().Error(), "certificate") {
		t.Errorf("%+v, %v", d, s.Healthy())
	}
	s = newSink(t, server.URL, func(o *Options) {
		o.rootCAs = x509.NewCertPool()
		o.rootCAs.AddCert(server.Certificate())
	})
	if d := deliver(t.Context(), s, 1, event); d.acks != 1 {
		t.Errorf("%+v, %v", d, s.Healthy())
	}
}

// What is no event, or not for the sink, is done with; what HTTP cannot carry is
// given up, and not taken for a broken sink.
func TestNotPosted(t *testing.T) {
	t.Parallel()
	x := receive(t, status(200))
	given := 0
	s := newSink(t, x.URL, func(o *Options) { o.GivenUp = func(GivenUp) { given++ } })
	if d := deliver(t.Context(), s, 1, "no event"); d.acks != 1 {
		t.Errorf("%+v", d)
	}
	odd := strings.Replace(event, `"application/json"`, `"a/b\u0085"`, 1)
	for range mostRefused {
		deliver(t.Context(), s, 2, strings.Replace(odd, `{"umid":"u-1"}`, `"x"`, 1))
	}
	d := &settled{}
	s.Handle(t.Context(), &bridge.Delivery{Data: []byte(event), Settle: d}, func(*cloudevent.Event) bool { return false })
	if d.acks != 1 || x.count() != 0 || s.Healthy() != nil || given > 1 {
		t.Errorf("%+v, %d posts, %v, %d given up", d, x.count(), s.Healthy(), given)
	}
}

func TestAsk(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code  int
		allow string
		want  string
	}{
		{200, "*", "answers OPTIONS with 200, and lets us post"}, {405, "", "answers OPTIONS with 405"}, {404, "", "answers OPTIONS with 404"},
		{403, "", "error: it answers OPTIONS with 403"}, {302, "", "error: it answers OPTIONS with 302"}, {503, "", "error: it answers OPTIONS with 503"},
	} {
		x := receive(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodOptions || r.Header.Get("WebHook-Request-Origin") != "b1" || r.Header.Get("Authorization") != "Bearer t" {
				t.Errorf("%s %v", r.Method, r.Header)
			}
			if test.allow != "" {
				w.Header().Set("WebHook-Allowed-Origin", test.allow)
			}
			w.WriteHeader(test.code)
		})
		s := newSink(t, x.URL, func(o *Options) { o.Token = func() config.Secret { return "t" } })
		got, err := s.Ask(t.Context(), "b1")
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != test.want {
			t.Errorf("%d: %q, want %q", test.code, got, test.want)
		}
	}
}
