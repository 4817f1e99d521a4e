package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Permission is one thing that a server must allow a user.
type Permission struct {
	Verb    Verb   `json:"verb"`
	Subject string `json:"subject"`
	// Queue is the queue group that a subscription is made in; "" for none.
	Queue string `json:"queue,omitempty"`
	// For completes "needed …".
	For string `json:"for"`
}

// Verb is what a Permission allows.
type Verb string

// The verbs, as the server's configuration has them.
const (
	Publish   Verb = "publish"
	Subscribe Verb = "subscribe"
)

func (p Permission) String() string {
	if p.Queue != "" {
		return fmt.Sprintf("%s %q in queue group %q", p.Verb, p.Subject, p.Queue)
	}
	return fmt.Sprintf("%s %q", p.Verb, p.Subject)
}

// Entry is the permission as the server's configuration has it.
func (p Permission) Entry() string { return strings.TrimSpace(p.Subject + " " + p.Queue) }

// Access is what the least permissions depend on.
type Access struct {
	Names    Names
	Domain   string // of JetStream
	Existing bool   // somebody else makes the streams
	Commands bool
	Sink     bool // there is one
	Sources  []SourceAccess
}

// SourceAccess is a source that is taken from.
type SourceAccess struct {
	Name     string
	Stream   string // see StreamIn; "" for a core source
	Subjects []string
}

const userInfo = "$SYS.REQ.USER.INFO"

// permissions gathers a list without repetitions.
type permissions struct {
	list []Permission
	api  string // prefix of JetStream's API
}

func (p *permissions) add(verb Verb, subject, queue, what string) {
	for _, have := range p.list {
		if have.Verb == verb && have.Subject == subject && have.Queue == queue {
			return
		}
	}
	p.list = append(p.list, Permission{verb, subject, queue, what})
}

func (p *permissions) publish(subject, what string) { p.add(Publish, subject, "", what) }
func (p *permissions) call(subject, what string)    { p.add(Publish, p.api+subject, "", what) }

// read is what going through a stream takes.
func (p *permissions) read(stream, what string) {
	p.call("CONSUMER.CREATE."+stream+".>", what)
	p.call("CONSUMER.MSG.NEXT."+stream+".*", what)
}

// take is what taking from a durable takes. filter is the end of the subject that
// the durable is made on.
func (p *permissions) take(stream, durable, filter, what string) {
	api, name := p.api, stream
	if domain, in, ok := strings.Cut(stream, "."); ok {
		api, name = apiPrefix(domain), in
	}
	p.publish(api+"CONSUMER.INFO."+name+"."+durable, what)
	p.publish(api+"CONSUMER.CREATE."+name+"."+durable+filter, what)
	p.publish(api+"CONSUMER.MSG.NEXT."+name+"."+durable, what)
	p.publish("$JS.ACK."+name+"."+durable+".>", what)
}

func (p *permissions) whole(stream, what string) {
	api, name := p.api, stream
	if domain, in, ok := strings.Cut(stream, "."); ok {
		api, name = apiPrefix(domain), in
	}
	p.publish(api+"STREAM.MSG.GET."+name, what)
}

func (a Access) start(inbox string) *permissions {
	p := &permissions{api: apiPrefix(a.Domain)}
	p.add(Subscribe, inbox+".>", "", "to hear what NATS answers")
	p.call("INFO", "to see that JetStream answers")
	return p
}

// Serve is what a bridge needs.
func (a Access) Serve() []Permission {
	n := a.Names
	p := a.start(n.Inbox())
	p.publish(userInfo, "to say at the start which permissions are missing, and not only when they are used")

	for _, stream := range []string{n.Events(), n.Results(), n.Dead(), n.Wait(), n.Ledger()} {
		p.call("STREAM.INFO."+stream, "to look whether the stream is there, is as it has to be, and has room")
		if !a.Existing {
			p.call("STREAM.CREATE."+stream, "to make the stream where it is missing")
		}
	}
	if !a.Existing {
		p.call("STREAM.UPDATE."+n.Ledger(), "to mend a ledger that somebody else has made")
		p.call("STREAM.UPDATE."+n.Events(), "to make a stream of an earlier version drop repeats for as long as 8x8 makes them")
		for _, verb := range []string{"CREATE", "INFO", "UPDATE", "DELETE"} {
			p.call("STREAM."+verb+"."+n.room(), "to find out how much room there is for the streams")
		}
	}

	p.publish(a.ledgerSubject(), "to claim events, and to record how they ended")
	p.call("STREAM.MSG.GET."+n.Ledger(), "to read the ledger")
	p.call("STREAM.PURGE."+n.Ledger(), "to take what is settled off the ledger's list of unknown outcomes")

	p.publish(n.AllEvents(), "to store events that come over HTTP, from plain subjects and from 8x8")
	p.take(n.Events(), n.Durable(EventsSource), "", "to take events")
	p.whole(n.Events(), "to read an event that is too large to be kept twice")
	p.publish(n.AllResults(), "to publish outcomes")
	p.publish(n.AllDead(), "to store dead letters")
	p.read(n.Dead(), "to find a dead letter whose outcome became known")
	p.call("CONSUMER.DELETE."+n.Dead()+".*", "to tidy up after going through the dead letters")
	p.call("STREAM.MSG.GET."+n.Dead(), "to read a dead letter")
	p.call("STREAM.MSG.DELETE."+n.Dead(), "to withdraw a dead letter whose outcome became known")
	p.publish(n.prefix+".wait.>", "to set aside what cannot end now")
	p.call("CONSUMER.INFO."+n.Wait()+".*", "to take what was set aside")
	p.call("CONSUMER.CREATE."+n.Wait()+".>", "to take what was set aside")
	p.call("CONSUMER.MSG.NEXT."+n.Wait()+".*", "to take what was set aside")
	p.publish("$JS.ACK."+n.Wait()+".>", "to take what was set aside")

	for _, s := range a.Sources {
		what := fmt.Sprintf("to take from source %q", s.Name)
		if s.Stream == "" {
			for _, subject := range s.Subjects {
				p.add(Subscribe, subject, n.Durable(s.Name), what)
			}
			continue
		}
		filter := ""
		if len(s.Subjects) == 1 {
			filter = "." + s.Subjects[0]
		}
		p.take(s.Stream, n.Durable(s.Name), filter, what)
		p.whole(s.Stream, fmt.Sprintf("to read an event of source %q that is too large to be kept twice", s.Name))
	}
	if a.Sink {
		p.take(n.Results(), n.SinkDurable("").Name, "", "to post outcomes to the sink")
		p.take(n.Events(), n.SinkDurable("").Name, "", "to post what 8x8 sends to the sink")
	}
	if a.Commands {
		p.add(Subscribe, n.runSubject("*"), n.runQueue(), "to take requests")
		p.publish("_INBOX.>", "to reply to requests; name what their senders use, if it is something else")
	}
	return p.list
}

func (a Access) ledgerSubject() string {
	subject := "$KV." + strings.TrimPrefix(a.Names.Ledger(), "KV_") + ".>"
	if a.Domain != "" {
		return apiPrefix(a.Domain) + subject
	}
	return subject
}

// Send is what bridge8x8 send needs, and any other who publishes events; with
// --wait also Tail.
func (a Access) Send() []Permission {
	p := a.start(a.Names.ToolInbox())
	p.publish(a.Names.AllEvents(), "to publish events")
	return p.list
}

// Tail is what bridge8x8 tail needs.
func (a Access) Tail() []Permission {
	n := a.Names
	p := a.start(n.ToolInbox())
	p.read(n.Results(), "to follow outcomes")
	p.read(n.Events(), "to follow what 8x8 sends")
	p.read(n.Dead(), "to follow dead letters")
	return p.list
}

// Trace is what bridge8x8 trace needs.
func (a Access) Trace() []Permission {
	n := a.Names
	p := a.start(n.ToolInbox())
	for _, stream := range []string{n.Ledger(), n.Events(), n.Results(), n.Dead(), n.Wait()} {
		p.call("STREAM.INFO."+stream, "to see what the stream holds")
	}
	for _, stream := range []string{n.Ledger(), n.Events(), n.Results(), n.Dead()} {
		p.read(stream, "to go through the stream")
	}
	p.call("STREAM.MSG.GET."+n.Ledger(), "to read an event's records")
	p.call("STREAM.MSG.GET."+n.Wait(), "to find what is set aside")
	return p.list
}

// Letters is what bridge8x8 dead needs.
func (a Access) Letters() []Permission {
	n := a.Names
	p := a.start(n.ToolInbox())
	p.call("STREAM.INFO."+n.Dead(), "to see what letters there are")
	p.read(n.Dead(), "to list letters")
	p.call("CONSUMER.DELETE."+n.Dead()+".*", "to tidy up after listing letters")
	p.call("STREAM.MSG.GET."+n.Dead(), "to show a letter")
	p.call("STREAM.INFO."+n.Ledger(), "to show what the ledger knows of a letter")
	p.call("STREAM.MSG.GET."+n.Ledger(), "to show what the ledger knows of a letter")
	p.publish(n.prefix+".wait."+replayToken+".>", "to replay or discard a letter")
	p.call("STREAM.MSG.DELETE."+n.Dead(), "to remove a letter that was decided about")
	p.whole(n.Events(), "to read an event that was too large for its letter")
	for _, s := range a.Sources {
		if s.Stream != "" {
			p.whole(s.Stream, fmt.Sprintf("to read an event of source %q that was too large for its letter", s.Name))
		}
	}
	return p.list
}

// apiPrefix is what the subjects of JetStream's API begin with in a domain.
func apiPrefix(domain string) string {
	if domain == "" {
		return jetstream.DefaultAPIPrefix
	}
	return "$JS." + domain + ".API."
}

// --- what the server refuses --------------------------------------------------

// DeniedError is a subject that the server refuses. Whether something that was
// sent there before is stored, it leaves open.
type DeniedError struct {
	Verb           Verb
	Subject, Queue string
	// Missing is the permission that would allow it; empty if none of ours would.
	Missing Permission
}

func (e *DeniedError) Error() string {
	used := Permission{Verb: e.Verb, Subject: e.Subject, Queue: e.Queue}
	if e.Missing.Subject == "" {
		return fmt.Sprintf("NATS does not permit this user to %s", used)
	}
	return fmt.Sprintf("NATS does not permit this user to %s: add the permission %s, which is needed %s", used, e.Missing, e.Missing.For)
}

// Is says that nobody can tell whether a message was stored: it was refused, but
// one that went to the same subject before need not have been.
func (e *DeniedError) Is(target error) bool { return target == ErrUnclear }

// MissingError is what a user is not permitted, before any of it was tried.
type MissingError struct{ Missing []Permission }

func (e *MissingError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "NATS does not permit this user what the bridge needs (bridge8x8 nats permissions prints all of it); add:")
	for _, p := range e.Missing {
		fmt.Fprintf(&b, "\n  %s, needed %s", p, p.For)
	}
	return b.String()
}

// denials is what the server refused.
type denials struct {
	mu     sync.Mutex
	wanted []Permission
	told   map[string]time.Time // when each was logged
	last   *DeniedError
	lastAt time.Time
	ends   map[*context.CancelCauseFunc]struct{}
}

const deniedAgain = time.Minute // after which the same refusal is told again

// Expect says what permissions the user should have, so that a refusal can be explained.
func (c *Conn) Expect(wanted []Permission) {
	c.denials.mu.Lock()
	defer c.denials.mu.Unlock()
	c.denials.wanted = wanted
}

// violation is how a server words a refusal. source: nats-server, client.go.
var violation = regexp.MustCompile(`Permissions Violation for (Publish|Subscription) to ("(?:[^"\\]|\\.)*")(?: using queue ("(?:[^"\\]|\\.)*"))?`)

// explain reads a refusal; nil if err is none.
func (d *denials) explain(err error) *DeniedError {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	e := &DeniedError{Verb: Publish, Subject: err.Error()}
	if m := violation.FindStringSubmatch(err.Error()); m != nil {
		if m[1] != "Publish" {
			e.Verb = Subscribe
		}
		e.Subject, _ = strconv.Unquote(m[2])
		e.Queue, _ = strconv.Unquote(m[3])
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.wanted {
		if p.Verb == e.Verb && covers(p.Subject, e.Subject) {
			e.Missing = p
			break
		}
	}
	return e
}

// refused takes note of a refusal, and ends what waits for an answer that will
// not come. It says whether the operator has to be told.
func (c *Conn) refused(e *DeniedError) (tell bool) {
	d := &c.denials
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.optional(e) {
		return false
	}
	for end := range d.ends {
		(*end)(e)
	}
	d.last, d.lastAt = e, time.Now()
	key := string(e.Verb) + e.Missing.Entry()
	if e.Missing.Subject == "" {
		key += e.Subject
	}
	if tell = time.Since(d.told[key]) > deniedAgain; tell {
		if d.told == nil {
			d.told = map[string]time.Time{}
		}
		d.told[key] = time.Now()
	}
	return tell
}

// Denied is what the server has refused in the last minute; nil if nothing.
func (c *Conn) Denied() error {
	c.denials.mu.Lock()
	defer c.denials.mu.Unlock()
	if c.denials.last == nil || time.Since(c.denials.lastAt) > deniedAgain {
		return nil
	}
	return c.denials.last
}

// Permitted does what needs NATS, and ends it as soon as the server refuses a
// subject: the call behind it would wait in vain for an answer, and a
// subscription, or a message that wants no reply, would seem to be taken.
func (c *Conn) Permitted(ctx context.Context, do func(context.Context) error) error {
	before := c.NC.LastError()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	c.denials.mu.Lock()
	if c.denials.ends == nil {
		c.denials.ends = map[*context.CancelCauseFunc]struct{}{}
	}
	c.denials.ends[&end] = struct{}{}
	c.denials.mu.Unlock()
	defer func() {
		c.denials.mu.Lock()
		delete(c.denials.ends, &end)
		c.denials.mu.Unlock()
	}()
	err := do(ctx)
	if err == nil { // a refusal comes before the answer to a ping
		flush, cancel := context.WithTimeout(ctx, 5*time.Second)
		_ = c.NC.FlushWithContext(flush) // NATS that is away is no refusal
		cancel()
	}
	if denied, ok := errors.AsType[*DeniedError](context.Cause(ctx)); ok {
		return denied
	}
	if last := c.NC.LastError(); !errors.Is(last, before) {
		if denied := c.denials.explain(last); denied != nil && !c.optional(denied) {
			return denied
		}
	}
	return err
}

// optional says whether a refusal only makes a message worse.
func (c *Conn) optional(e *DeniedError) bool { return e.Subject == c.api+"STREAM.NAMES" }

// Missing asks the server what its user may, and returns what is certainly missing
// of what is wanted. It fails where the server does not tell.
func (c *Conn) Missing(ctx context.Context, wanted []Permission) ([]Permission, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var answer permitted
	err := c.Permitted(ctx, func(ctx context.Context) (err error) {
		answer, err = c.permissions(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	var missing []Permission
	for _, p := range wanted {
		has := answer.Data.Permissions.Publish
		if p.Verb == Subscribe {
			has = answer.Data.Permissions.Subscribe
		}
		if lacks(p, has.Allow, has.Deny) {
			missing = append(missing, p)
		}
	}
	return missing, nil
}

// permitted is a server's answer to userInfo.
type permitted struct {
	Server struct{ ID string }
	Data   struct {
		Permissions struct {
			Publish, Subscribe struct{ Allow, Deny []string }
		}
	}
}

// permissions asks the server that we are connected to. Those behind leaf nodes hear
// the question as well, and answer for the leaf node.
func (c *Conn) permissions(ctx context.Context) (answer permitted, err error) {
	inbox := c.NC.NewInbox()
	sub, err := c.NC.SubscribeSync(inbox)
	if err != nil {
		return answer, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := c.NC.PublishRequest(userInfo, inbox, nil); err != nil {
		return answer, err
	}
	for ours := c.NC.ConnectedServerId(); ; {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return permitted{}, err
		}
		if m.Header.Get("Status") == "503" {
			return permitted{}, nats.ErrNoResponders
		}
		answer = permitted{}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return permitted{}, err
		}
		if answer.Server.ID == ours || answer.Server.ID == "" {
			return answer, nil
		}
	}
}

// lacks says whether a permission is certainly not given: nothing of it is
// allowed, or all of it is denied. What is given in part, its use will tell.
func lacks(p Permission, allow, deny []string) bool {
	for _, entry := range deny {
		if subject, queue, _ := strings.Cut(entry, " "); covers(subject, p.Subject) && (queue == "" || covers(queue, p.Queue)) {
			return true
		}
	}
	for _, entry := range allow {
		if subject, queue, _ := strings.Cut(entry, " "); overlap(subject, p.Subject) && (queue == "" || p.Queue != "" && covers(queue, p.Queue)) {
			return false
		}
	}
	return len(allow) > 0
}

// covers says whether a pattern matches all that another, or a subject, does.
func covers(pattern, subject string) bool {
	ps, ss := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, p := range ps {
		switch {
		case p == ">":
			return len(ss) > i
		case i >= len(ss) || ss[i] == ">" || p != "*" && p != ss[i]:
			return false
		}
	}
	return len(ps) == len(ss)
}

// overlap says whether a subject can match both.
func overlap(x, y string) bool {
	xs, ys := strings.Split(x, "."), strings.Split(y, ".")
	for i := range min(len(xs), len(ys)) {
		switch {
		case xs[i] == ">" || ys[i] == ">":
			return true
		case xs[i] != ys[i] && xs[i] != "*" && ys[i] != "*":
			return false
		}
	}
	return len(xs) == len(ys)
}
