package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest/proxy"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
	"github.com/bridge8x8/bridge8x8/bridge/natsd"
)

// Each of many stores that are under way at once gets its own answer.
func TestStoreManyAtOnce(t *testing.T) {
	t.Parallel()
	const many = 1000
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	makeStream(t, c, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.*"}, Storage: jetstream.MemoryStorage})
	ctx := within(t)
	seqs, errs := make([]uint64, many), make([]error, many)
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			text := fmt.Sprint(i)
			header := nats.Header{"I": {text}}
			seqs[i], errs[i] = c.Publisher.Store(ctx, "s."+text, header, []byte(text))
			header["I"][0] = "changed after it was stored"
		})
	}
	wg.Wait()
	owner := map[uint64]int{}
	for i := range many {
		if errs[i] != nil {
			t.Fatalf("store %d: %v", i, errs[i])
		}
		if other, taken := owner[seqs[i]]; taken {
			t.Fatalf("%d and %d both got sequence %d", i, other, seqs[i])
		}
		owner[seqs[i]] = i
	}
	if got := streamInfo(t, c, "S").State.Msgs; got != many {
		t.Fatalf("%d messages stored, want %d", got, many)
	}
	cons, err := c.JS.OrderedConsumer(ctx, "S", jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := cons.Fetch(many)
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(owner[meta.Sequence.Stream])
		if string(m.Data()) != text || m.Headers().Get("I") != text {
			t.Fatalf("message %d holds %s (%s), and %s was told that it is its own", meta.Sequence.Stream, m.Data(), m.Headers().Get("I"), text)
		}
		read++
	}
	if read != many {
		t.Errorf("%d messages read, want %d: %v", read, many, batch.Error())
	}
	if n := len(c.Publisher.await); n != 0 {
		t.Errorf("%d answers are still waited for", n)
	}
}

func TestStoreRefused(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t, natsd.Options{MaxPayload: 64 << 10}).ClientURL())
	makeStream(t, c, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Discard: jetstream.DiscardNew, MaxBytes: 4 << 10})

	_, err := c.Publisher.Store(ctx, "s.a", nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"7"}}, nil)
	if api, ok := errors.AsType[*jetstream.APIError](err); !ok || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence {
		t.Errorf("wrong expected sequence: %v", err)
	}
	_, err = c.Publisher.Store(ctx, "s.a", nil, make([]byte, 8<<10))
	if api, ok := errors.AsType[*jetstream.APIError](err); !ok || api.ErrorCode != 10077 {
		t.Errorf("full stream: %v", err)
	}
	_, err = c.Publisher.Store(ctx, "nobody.listens", nil, nil)
	if !errors.Is(err, ErrUnsent) || err.Error() != "not sent: no stream listens on this subject" {
		t.Errorf("no stream: %v", err)
	}
	_, err = c.Publisher.Store(ctx, "s.a", nil, make([]byte, 65<<10))
	if !errors.Is(err, ErrUnsent) || !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("too large: %v", err)
	}
	for _, subject := range []string{"", "s. a"} {
		if _, err = c.Publisher.Store(ctx, subject, nil, nil); !errors.Is(err, ErrUnsent) {
			t.Errorf("subject %q: %v", subject, err)
		}
	}
	if got := streamInfo(t, c, "S").State.Msgs; got != 0 {
		t.Errorf("%d messages stored, want none", got)
	}
	if seq := store(t, c, "s.a", "x"); seq != 1 {
		t.Errorf("sequence %d after all that, want 1", seq)
	}
}

// Two stores of one message id are one message, and both know which.
func TestStoreDuplicate(t *testing.T) {
	t.Parallel()
	c := connect(t, startServer(t, natsd.Options{}).ClientURL())
	makeStream(t, c, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	store(t, c, "s.a", "x")
	for range 2 {
		seq, err := c.Publisher.Store(within(t), "s.a", nats.Header{jetstream.MsgIDHeader: {"1"}}, []byte("y"))
		if err != nil || seq != 2 {
			t.Errorf("sequence %d, %v; want 2", seq, err)
		}
	}
}

func TestStoreDisconnected(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	server := startServer(t, natsd.Options{})
	witness := connect(t, server.ClientURL())
	makeStream(t, witness, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	p := proxy.Start(t, server.Addr().String())
	c := connect(t, p.URL())

	p.Lose(true)
	errs := make(chan error, 10)
	for range cap(errs) {
		go func() {
			_, err := c.Publisher.Store(ctx, "s.a", nil, []byte("asked before"))
			errs <- err
		}()
	}
	eventually(t, "the messages", func() bool { return streamInfo(t, witness, "S").State.Msgs == uint64(cap(errs)) })
	p.Away(true)
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, ErrUnclear) || errors.Is(err, ErrUnsent) {
			t.Errorf("stored on a line that broke: %v, want unclear", err)
		}
	}

	// What is asked for while nobody is there fails now, and is never sent later.
	eventually(t, "the client to notice", func() bool { return c.Healthy() != nil })
	if _, err := c.Publisher.Store(ctx, "s.a", nil, []byte("asked while away")); !errors.Is(err, ErrUnsent) {
		t.Errorf("stored while away: %v, want unsent", err)
	}
	p.Lose(false)
	p.Away(false)
	eventually(t, "the connection", func() bool {
		_, err := c.Publisher.Store(ctx, "s.a", nil, []byte("asked after"))
		return err == nil
	})
	for _, m := range everything(t, witness, "S") {
		if string(m.Data) == "asked while away" {
			t.Error("a message that was not sent turned up later")
		}
	}
}

// Who gives up waiting leaves nothing behind that somebody else could take for
// his own answer.
func TestStoreGivenUp(t *testing.T) {
	t.Parallel()
	server := startServer(t, natsd.Options{})
	witness := connect(t, server.ClientURL())
	makeStream(t, witness, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	p := proxy.Start(t, server.Addr().String())
	c := connect(t, p.URL())

	p.Hold(true, false)
	why := errors.New("the process stops")
	ctx, cancel := context.WithCancelCause(within(t))
	const many = 20
	errs := make(chan error, many)
	for range many {
		wait, err := c.Publisher.Begin("s.a", nil, []byte("given up"))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := wait(ctx)
			errs <- err
		}()
	}
	cancel(why)
	for range many {
		if err := <-errs; !errors.Is(err, ErrUnclear) || !errors.Is(err, why) {
			t.Errorf("given up: %v, want unclear and why", err)
		}
	}
	p.Hold(false, false)
	for i := range many {
		text := fmt.Sprint("kept ", i)
		seq := store(t, c, "s.a", text)
		st, err := witness.JS.Stream(within(t), "S")
		if err != nil {
			t.Fatal(err)
		}
		if m, err := st.GetMsg(within(t), seq); err != nil || string(m.Data) != text {
			t.Errorf("%q was told that it is message %d: %v, %v", text, seq, m, err)
		}
	}
}

// A stream that does not answer is not waited for for ever.
func TestStoreUnanswered(t *testing.T) {
	t.Parallel()
	server := startServer(t, natsd.Options{})
	p := proxy.Start(t, server.Addr().String())
	c := connect(t, p.URL())
	makeStream(t, c, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	p.Lose(true)
	if _, err := c.Publisher.Store(within(t), "s.a", nil, nil); !errors.Is(err, ErrUnclear) || err.Error() != "no answer from the stream: it may have been stored: timeout" {
		t.Errorf("unanswered: %v", err)
	}
}

func TestStoreWhenClosed(t *testing.T) {
	t.Parallel()
	server := startServer(t, natsd.Options{})
	p := proxy.Start(t, server.Addr().String())
	c := connect(t, p.URL())
	makeStream(t, c, jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	p.Hold(false, true)
	wait, err := c.Publisher.Begin("s.a", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	c.Close()
	if _, err := wait(within(t)); !errors.Is(err, ErrUnclear) {
		t.Errorf("closed while waiting: %v, want unclear", err)
	}
	if _, err := c.Publisher.Store(within(t), "s.a", nil, nil); !errors.Is(err, ErrUnsent) || err.Error() != "not sent: the connection is closed" {
		t.Errorf("stored after it was closed: %v", err)
	}
}

func TestReadPubAck(t *testing.T) {
	t.Parallel()
	refused := &jetstream.APIError{}
	tests := []struct {
		name   string
		status string
		data   string
		seq    uint64
		err    error
		api    jetstream.ErrorCode
	}{
		{name: "stored", data: `{"stream":"S","seq":17}`, seq: 17},
		{name: "duplicate", data: `{"stream":"S","seq":17,"duplicate":true}`, seq: 17},
		{name: "with a domain", data: `{"stream":"S", "domain":"hub", "seq": 18446744073709551615}`, seq: 18446744073709551615},
		{name: "a stream called error", data: `{"stream":"error","seq":3}`, seq: 3},
		{name: "refused", data: `{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"},"stream":"S","seq":0}`, err: refused, api: 10071},
		{name: "refused, with a sequence", data: `{"stream":"S","seq":9,"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}`, err: refused, api: 10077},
		{name: "no sequence", data: `{"stream":"S","seq":0}`, err: ErrUnclear},
		{name: "nothing", data: ``, err: ErrUnclear},
		{name: "no JSON", data: `+OK`, err: ErrUnclear},
		{name: "negative", data: `{"stream":"S","seq":-4}`, err: ErrUnclear},
		{name: "no responders", status: "503", err: ErrUnsent},
	}
	for _, test := range tests {
		m := nats.NewMsg("x")
		m.Data = []byte(test.data)
		if test.status != "" {
			m.Header.Set("Status", test.status)
		}
		got := readPubAck(m)
		if test.api != 0 {
			if api, ok := errors.AsType[*jetstream.APIError](got.err); !ok || api.ErrorCode != test.api {
				t.Errorf("%s: %v, want the stream's refusal %d", test.name, got.err, test.api)
			}
			continue
		}
		if got.seq != test.seq || !errors.Is(got.err, test.err) {
			t.Errorf("%s: %d, %v; want %d, %v", test.name, got.seq, got.err, test.seq, test.err)
		}
	}
}

func message(t *testing.T, id, eventType string, data string) cloudevent.Message {
	t.Helper()
	body := []byte(`{"specversion":"1.0","id":"` + id + `","source":"/shop","type":"` + eventType + `","data":"` + data + `"}`)
	header := map[string][]string{"Content-Type": {cloudevent.ContentTypeStructured}}
	e, err := cloudevent.FromNATS(header, body)
	if err != nil {
		t.Fatal(err)
	}
	return cloudevent.Message{Event: e, Header: header, Data: body}
}

func TestAccept(t *testing.T) {
	t.Parallel()
	ctx := within(t)
	c := connect(t, startServer(t, natsd.Options{MaxPayload: 8 << 10}).ClientURL())
	in := Intake{Conn: c, Names: NewNames("bridge")}
	one, two := message(t, "1", "com.example.a", "x"), message(t, "2", "com.example.b *", "y")
	if err := in.Accept(ctx, []cloudevent.Message{one}); err == nil || err.Error() != "store the event: not sent: no stream listens on this subject" {
		t.Errorf("without a stream: %v", err)
	}
	makeStream(t, c, jetstream.StreamConfig{Name: "BRIDGE_EVENTS", Subjects: []string{"bridge.events.>"}})
	if err := in.Accept(ctx, []cloudevent.Message{one, two}); err != nil {
		t.Fatal(err)
	}
	var subjects []string
	for _, m := range everything(t, c, "BRIDGE_EVENTS") {
		subjects = append(subjects, m.Subject)
		if e, err := cloudevent.FromNATS(m.Header, m.Data); err != nil || e.RawSource != "/shop" {
			t.Errorf("stored event %v, %v", e, err)
		}
	}
	if got := strings.Join(subjects, " "); got != "bridge.events.com.example.a bridge.events.com.example.b__" {
		t.Errorf("stored at %s", got)
	}
	large := message(t, "3", "com.example.a", strings.Repeat("z", 9<<10))
	if err := in.Accept(ctx, []cloudevent.Message{large}); !errors.Is(err, cloudevent.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	c.Close()
	if err := in.Accept(ctx, []cloudevent.Message{one}); err == nil || err.Error() != "store the event: not sent: the connection is closed" {
		t.Errorf("closed: %v", err)
	}
}
