package app_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
	"github.com/bridge8x8/bridge8x8/bridge/cloudevent"
)

// The secrets of the bridge that is attacked.
const (
	attackedToken = "good-token-7f3a"
	attackedHub   = "hub-secret-51c0"
	attackedHook  = "d2ViaG9vay1zZWNyZXQtOGQyZQ=="
	attackedPath  = "path-secret-b7e9"
)

// attack is something hostile that somebody does to the public listener.
type attack struct {
	name string
	do   func(a *attacker) string
	// want is what may come of it, by |: status codes, in order where there are more,
	// or closed, where the connection ends without an answer.
	want string
	tls  bool
	// crowd says that it takes all the room there is: such attacks come after the others,
	// which have their own answers.
	crowd bool
}

// attacker is one of them at work.
type attacker struct {
	t      *testing.T
	target string // host:port
	from   string // an address of this machine's own
	client *tls.Config
}

// attackLimit is how long anything hostile may keep a connection, on a machine that
// has a lot else to do. The bridge's own limits are 5 to 30 seconds.
const attackLimit = 75 * time.Second

func (a *attacker) dial() (net.Conn, error) {
	d := net.Dialer{Timeout: attackLimit}
	if a.from != "" && runtime.GOOS == "linux" { // which has all of 127.0.0.0/8
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(a.from)}
	}
	conn, err := d.DialContext(a.t.Context(), "tcp", a.target)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(attackLimit))
	}
	if err == nil && a.client != nil {
		secured := tls.Client(conn, a.client)
		if err = secured.HandshakeContext(a.t.Context()); err != nil {
			_ = conn.Close()
		}
		return secured, err
	}
	return conn, err
}

// answers reads until the connection ends, or, with one, the first answer.
func answers(conn net.Conn, one bool) string {
	var codes []string
	in := bufio.NewReader(conn)
	for {
		answer, err := http.ReadResponse(in, nil)
		if err != nil {
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				codes = append(codes, "hangs")
			}
			break
		}
		_, err = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		codes = append(codes, strconv.Itoa(answer.StatusCode))
		if err != nil || one {
			break
		}
	}
	if codes == nil {
		return "closed"
	}
	return strings.Join(codes, " ")
}

// say sends text, also if nobody listens any more, and reads one answer.
func say(text string) func(*attacker) string { return a1(text, true) }

// sayAll sends text and reads every answer until the connection ends.
func sayAll(text string) func(*attacker) string { return a1(text, false) }

func a1(text string, one bool) func(*attacker) string {
	return func(a *attacker) string {
		conn, err := a.dial()
		if err != nil {
			return "closed"
		}
		defer func() { _ = conn.Close() }()
		go func() { _, _ = io.WriteString(conn, text) }()
		return answers(conn, one)
	}
}

// head is the beginning of a request that may post, with more lines.
func head(more ...string) string {
	return "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + attackedToken + "\r\n" + strings.Join(more, "\r\n") + "\r\n"
}

const jsonType = "Content-Type: application/cloudevents+json"

// post is a request that may post a body as it is.
func post(body string, more ...string) func(*attacker) string {
	if len(more) == 0 {
		more = []string{jsonType}
	}
	return say(head(append(more, "Content-Length: "+strconv.Itoa(len(body)), "\r\n"+body)...))
}

// chunked is a request that may post, with a body as it goes over the wire.
func chunked(wire string) func(*attacker) string {
	return say(head(jsonType, "Transfer-Encoding: chunked", "\r\n"+wire))
}

// at posts to an address with headers, without what may.
func at(path, body string, more ...string) func(*attacker) string {
	return say("POST " + path + " HTTP/1.1\r\nHost: x\r\n" + strings.Join(append(more, "Content-Length: "+strconv.Itoa(len(body))), "\r\n") + "\r\n\r\n" + body)
}

// drip sends a beginning and then a byte at a time, until it is cut off.
func drip(begin, each string) func(*attacker) string {
	return func(a *attacker) string {
		conn, err := a.dial()
		if err != nil {
			return "closed"
		}
		defer func() { _ = conn.Close() }()
		ended := make(chan struct{})
		defer close(ended)
		go func() {
			_, err := io.WriteString(conn, begin)
			for err == nil && each != "" {
				select {
				case <-ended:
					return
				case <-time.After(300 * time.Millisecond):
					_, err = io.WriteString(conn, each)
				}
			}
		}()
		return answers(conn, true)
	}
}

// crowd does the same n times at once, and tells what most of them got.
func crowd(n int, from string, do func(*attacker) string) func(*attacker) string {
	return func(a *attacker) string {
		got := map[string]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				outcome := do(&attacker{a.t, a.target, from, a.client})
				mu.Lock()
				defer mu.Unlock()
				got[outcome]++
			})
		}
		wg.Wait()
		if got["hangs"] > 0 {
			return "hangs"
		}
		most := ""
		for outcome := range got {
			if got[outcome] > got[most] {
				most = outcome
			}
		}
		return most
	}
}

// stream sends the same again and again until it is cut off, or done.
func stream(begin, again string, most int) func(*attacker) string {
	return func(a *attacker) string {
		conn, err := a.dial()
		if err != nil {
			return "closed"
		}
		defer func() { _ = conn.Close() }()
		go func() {
			_, err := io.WriteString(conn, begin)
			for sent := 0; err == nil && sent < most; sent += len(again) {
				_, err = io.WriteString(conn, again)
			}
		}()
		return answers(conn, true)
	}
}

func signed(secret string, parts ...string) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(strings.Join(parts, "")))
	return mac.Sum(nil)
}

// attacks are all of them. shop is a certificate that may post.
func attacks(t *testing.T, ca *bridgetest.CA) []attack {
	t.Helper()
	event := structured("evil")
	smuggled := "POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + attackedToken + "\r\n" + jsonType + "\r\nContent-Length: " + strconv.Itoa(len(event)) + "\r\n\r\n" + event
	hub := "X-Hub-Signature-256: sha256=" + hex.EncodeToString(signed(attackedHub, `{"a":1}`))
	stamp := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }
	standard := func(secret, id, at, body string) []string {
		key, err := base64.StdEncoding.DecodeString(secret)
		if err != nil {
			t.Fatal(err)
		}
		return []string{"webhook-id: " + id, "webhook-timestamp: " + at, "webhook-signature: v1," + base64.StdEncoding.EncodeToString(signed(string(key), id, ".", at, ".", body))}
	}
	var zipped bytes.Buffer
	bomb := gzip.NewWriter(&zipped)
	for range 16 {
		_, _ = bomb.Write(make([]byte, 1<<20))
	}
	_ = bomb.Close()
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%d":1`, i)
		}
		return b.String()
	}
	many := func(n int, each string) string { return strings.TrimSuffix(strings.Repeat(each+",", n), ",") }
	headers := func(n int, prefix string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%s%d: x\r\n", prefix, i)
		}
		return strings.TrimSuffix(b.String(), "\r\n")
	}
	plain := []attack{
		// What is no request.
		{name: "noise", do: say("\x00\x01\x02\xff\xfe noise\r\n\r\n"), want: "400"},
		{name: "HTTP/0.9", do: say("GET /events\r\n\r\n"), want: "400"},
		{name: "HTTP/2 without TLS", do: say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"), want: "404|closed"},
		{name: "upgrade to HTTP/2", do: say("GET /events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"), want: "405"},
		{name: "upgrade to WebSocket", do: say("GET /events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n"), want: "405"},
		{name: "HTTP/3.0", do: say("POST /events HTTP/3.0\r\nHost: x\r\n\r\n"), want: "400|505"},
		{name: "no Host", do: say("POST /events HTTP/1.1\r\n\r\n"), want: "400"},
		{name: "two Hosts", do: say("POST /events HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), want: "400"},
		{name: "a Host that is none", do: say("POST /events HTTP/1.1\r\nHost: a b\x01\r\n\r\n"), want: "400"},
		{name: "a header without a colon", do: say(head("nothing", "")), want: "400"},
		{name: "a space before the colon", do: say(head("Content-Length : 5", "\r\nhello")), want: "400"},
		{name: "NUL in a header", do: say(head("X-A: a\x00b", "")), want: "400"},
		{name: "CR in a header", do: say(head("X-A: a\rTransfer-Encoding: chunked", "")), want: "400"},
		{name: "a method with a space", do: say("PO ST /events HTTP/1.1\r\nHost: x\r\n\r\n"), want: "400"},
		// What leads elsewhere.
		{name: "TRACE", do: say("TRACE /events HTTP/1.1\r\nHost: x\r\n\r\n"), want: "405"},
		{name: "GET", do: say("GET /events HTTP/1.1\r\nHost: x\r\n\r\n"), want: "405"},
		{name: "DELETE", do: say("DELETE /webhooks/hub HTTP/1.1\r\nHost: x\r\n\r\n"), want: "405"},
		{name: "a method of its own", do: say("EVIL /events HTTP/1.1\r\nHost: x\r\n\r\n"), want: "405"},
		{name: "CONNECT", do: say("CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n\r\n"), want: "404"},
		{name: "as a proxy", do: say("POST http://169.254.169.254/latest HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), want: "404"},
		{name: "up and away", do: at("/webhooks/../events", event, jsonType), want: "404"},
		{name: "up and away, encoded", do: at("/webhooks/%2e%2e/%2e%2e/etc/passwd", event, jsonType), want: "404"},
		{name: "a folder", do: at("/events/", event, jsonType), want: "404"},
		{name: "two slashes", do: at("//events", event, jsonType), want: "404"},
		{name: "NUL in the address", do: at("/webhooks/hub%00", event, jsonType), want: "404"},
		{name: "the admin's address", do: say("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), want: "404"},
		{name: "a webhook that is none", do: at("/webhooks/none", event, jsonType), want: "404"},
		// What is too long.
		{name: "an address of 100 KB", do: say("POST /" + strings.Repeat("a", 100_000) + " HTTP/1.1\r\nHost: x\r\n\r\n"), want: "431|closed"},
		{name: "a query of 10 KB", do: at("/events?access_token="+strings.Repeat("a", 10_000), event, jsonType), want: "401"},
		{name: "a header of 1 MB", do: say(head("X-A: "+strings.Repeat("a", 1<<20), "")), want: "431|closed"},
		{name: "10,000 headers", do: say(head(headers(10_000, "X-"), "")), want: "431|closed"},
		{name: "headers without end", do: stream("POST /events HTTP/1.1\r\nHost: x\r\n", "X-A: "+strings.Repeat("a", 1000)+"\r\n", 64<<20), want: "431|closed"},
		{name: "a line without end", do: stream("POST /", strings.Repeat("a", 1000), 64<<20), want: "431|closed"},
		{name: "600 attributes in headers", do: say(head("ce-specversion: 1.0", "ce-id: 1", "ce-source: /s", "ce-type: t", headers(600, "ce-x"), "Content-Length: 0", "")), want: "400|431"},
		{name: "a token of 10 KB", do: at("/events", event, jsonType, "Authorization: Bearer "+strings.Repeat("a", 10_000)), want: "401"},
		{name: "announces 1 GB", do: say(head(jsonType, "Content-Length: 1073741824", "")), want: "413"},
		{name: "announces 1 GB, and waits to be asked", do: say(head(jsonType, "Content-Length: 1073741824", "Expect: 100-continue", "")), want: "413"},
		{name: "expects something else", do: say(head(jsonType, "Content-Length: 5", "Expect: the-impossible", "\r\nhello")), want: "417"},
		{name: "a body without end", do: stream(head(jsonType, "Transfer-Encoding: chunked", ""), "4000\r\n"+strings.Repeat("a", 0x4000)+"\r\n", 64<<20), want: "413|closed"},
		{name: "an event of 2 MB", do: post(`{"specversion":"1.0","id":"evil","source":"/s","type":"t","data":"` + strings.Repeat("a", 2<<20) + `"}`), want: "413"},
		// Two minds about where a request ends.
		{name: "a length and chunks", do: sayAll(head(jsonType, "Content-Length: 6", "Transfer-Encoding: chunked", "\r\n0\r\n\r\n"+smuggled)), want: "400"},
		{name: "chunks and a length", do: sayAll(head(jsonType, "Transfer-Encoding: chunked", "Content-Length: "+strconv.Itoa(5+len(smuggled)), "\r\n0\r\n\r\n"+smuggled)), want: "400"},
		{name: "chunks in disguise", do: sayAll(head(jsonType, "Transfer-Encoding: xchunked", "\r\n0\r\n\r\n"+smuggled)), want: "501"},
		{name: "chunks, twice", do: sayAll(head(jsonType, "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "\r\n0\r\n\r\n"+smuggled)), want: "501"},
		{name: "chunks in a list", do: sayAll(head(jsonType, "Transfer-Encoding: identity, chunked", "\r\n0\r\n\r\n"+smuggled)), want: "501"},
		{name: "chunks after a tab", do: sayAll(head(jsonType, "Transfer-Encoding: \x0bchunked", "\r\n0\r\n\r\n"+smuggled)), want: "400|501"},
		{name: "two lengths", do: sayAll(head(jsonType, "Content-Length: 0", "Content-Length: "+strconv.Itoa(len(smuggled)), "\r\n"+smuggled)), want: "400"},
		{name: "two lengths in one", do: sayAll(head(jsonType, "Content-Length: 0, 5", "\r\n"+smuggled)), want: "400"},
		{name: "less than no length", do: sayAll(head(jsonType, "Content-Length: -1", "\r\n"+smuggled)), want: "400"},
		{name: "a length with a sign", do: sayAll(head(jsonType, "Content-Length: +5", "\r\n"+smuggled)), want: "400"},
		{name: "a length in another base", do: sayAll(head(jsonType, "Content-Length: 0x5", "\r\n"+smuggled)), want: "400"},
		{name: "a length beyond all numbers", do: sayAll(head(jsonType, "Content-Length: 99999999999999999999", "\r\n"+smuggled)), want: "400"},
		{name: "a chunk of no size", do: chunked("zz\r\n" + event), want: "400"},
		{name: "a chunk beyond all sizes", do: chunked("ffffffffffffffffff\r\n" + event), want: "400"},
		{name: "a chunk of less than nothing", do: chunked("-5\r\nhello\r\n0\r\n\r\n"), want: "400"},
		{name: "a chunk that does not end", do: chunked("5\r\nhelloworld\r\n0\r\n\r\n"), want: "400"},
		{name: "chunks with more said than sent", do: stream(head(jsonType, "Transfer-Encoding: chunked", ""), "1;x="+strings.Repeat("a", 2000)+"\r\na\r\n", 16<<20), want: "400|413|closed"},
		{name: "a long chunk extension", do: chunked("1;" + strings.Repeat("a", 100_000) + "\r\na\r\n0\r\n\r\n"), want: "400"},
		{name: "trailers without end", do: stream(head(jsonType, "Transfer-Encoding: chunked", "\r\n0"), "X-A: "+strings.Repeat("a", 1000)+"\r\n", 16<<20), want: "400|closed"},
		// Bodies that are bombs, or nothing.
		{name: "a bomb in gzip", do: post(zipped.String(), jsonType, "Content-Encoding: gzip"), want: "415"},
		{name: "a bomb in a bomb", do: post(zipped.String(), jsonType, "Content-Encoding: gzip, gzip"), want: "415"},
		{name: "a bomb that says nothing", do: post(zipped.String()), want: "400"},
		{name: "brotli", do: post("x", jsonType, "Content-Encoding: br"), want: "415"},
		{name: "half an event", do: post(event[:len(event)-10]), want: "400"},
		{name: "nested 100,000 deep", do: post(`{"specversion":"1.0","data":` + strings.Repeat("[", 100_000)), want: "400"},
		{name: "nested 100,000 deep, with an end", do: post(strings.Replace(event, `"data":`, `"data":`+strings.Repeat(`{"a":`, 100_000), 1) + strings.Repeat("}", 100_000)), want: "400"},
		{name: "nested deep in an attribute", do: post(`{"specversion":"1.0","id":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`), want: "400"},
		{name: "60,000 attributes", do: post(`{"specversion":"1.0","id":"evil","source":"/s","type":"t"` + keys(60_000) + `}`), want: "400|413"},
		{name: "one key 100,000 times", do: post(`{"specversion":"1.0"` + strings.Repeat(`,"id":"evil"`, 80_000) + `}`), want: "400"},
		{name: "100,000 events of nothing", do: post("["+many(100_000, "{}")+"]", "Content-Type: application/cloudevents-batch+json"), want: "400|413"},
		{name: "60,000 attributes of nothing", do: post(strings.ReplaceAll(`{"specversion":"1.0","id":"evil","source":"/s","type":"t"`+keys(60_000)+`}`, ":1,", ":null,")), want: "400"},
		{name: "two million items", do: post("["+many(2_000_000, "1")+"]", "Content-Type: application/cloudevents-batch+json"), want: "413"},
		{name: "a thousand and one events", do: post("["+many(1001, event)+"]", "Content-Type: application/cloudevents-batch+json"), want: "413"},
		{name: "a number without end", do: post(`{"specversion":"1.0","id":"evil","source":"/s","type":"t","n":` + strings.Repeat("9", 500_000) + `}`), want: "400"},
		{name: "no UTF-8", do: post(strings.Replace(event, "evil", "ev\xff\xfeil", 1)), want: "400"},
		{name: "UTF-16", do: post("\xff\xfe{\x00}\x00", jsonType+"; charset=utf-16"), want: "415"},
		{name: "XML with entities", do: post(`<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>`, "Content-Type: application/xml"), want: "415"},
		{name: "a command", do: post(strings.Replace(event, "com.acme.order.shipped", "com.8x8.run.send-sms", 1)), want: "403"},
		{name: "ends too early", do: func(a *attacker) string {
			conn, err := a.dial()
			if err != nil {
				return "closed"
			}
			defer func() { _ = conn.Close() }()
			_, _ = io.WriteString(conn, head(jsonType, "Content-Length: 1000", "\r\n{"))
			_ = conn.(*net.TCPConn).CloseWrite()
			return answers(conn, true)
		}, want: "400|closed"},
		{name: "is gone at once", crowd: true, do: crowd(200, "127.0.0.71", func(a *attacker) string {
			conn, err := a.dial()
			if err == nil {
				_, _ = io.WriteString(conn, head(jsonType, "Content-Length: 1000", "\r\n{"))
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
			return "closed"
		}), want: "closed"},
		// Who proves nothing, or something else.
		{name: "no token", do: at("/events", event, jsonType), want: "401"},
		{name: "a token that is nearly it", do: at("/events", event, jsonType, "Authorization: Bearer "+attackedToken[:len(attackedToken)-1]), want: "401"},
		{name: "an empty token", do: at("/events", event, jsonType, "Authorization: Bearer "), want: "401"},
		{name: "another scheme", do: at("/events", event, jsonType, "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("x:"+attackedToken))), want: "401"},
		{name: "two tokens", do: at("/events", event, jsonType, "Authorization: Bearer x", "Authorization: Bearer "+attackedToken), want: "401"},
		{name: "a token in a cookie", do: at("/events", event, jsonType, "Cookie: access_token="+attackedToken), want: "401"},
		{name: "GitHub: forged", do: at("/webhooks/hub", `{"a":2}`, hub), want: "401"},
		{name: "GitHub: truncated", do: at("/webhooks/hub", `{"a":1`, hub), want: "401"},
		{name: "GitHub: signed by nobody", do: at("/webhooks/hub", `{"a":1}`, "X-Hub-Signature-256: sha256="), want: "401"},
		{name: "Standard Webhooks: stale", do: at("/webhooks/std", event, append(standard(attackedHook, "m", stamp(-6*time.Minute), event), jsonType)...), want: "401"},
		{name: "Standard Webhooks: from the future", do: at("/webhooks/std", event, append(standard(attackedHook, "m", stamp(6*time.Minute), event), jsonType)...), want: "401"},
		{name: "Standard Webhooks: forged", do: at("/webhooks/std", event, append(standard("ZXZpbA==", "m", stamp(0), event), jsonType)...), want: "401"},
		{name: "8x8: no secret", do: at("/webhooks/8x8", `{}`), want: "401"},
		{name: "8x8: another secret", do: at("/webhooks/8x8/"+attackedPath+"x", `{}`), want: "401"},
		// Who takes all the time there is.
		{name: "says nothing", do: drip("", ""), want: "closed"},
		{name: "headers a byte at a time", do: drip("POST /events HTTP/1.1\r\nHost: x\r\nX-A: ", "a"), want: "408|closed"},
		{name: "a body a byte at a time", do: drip(head(jsonType, "Content-Length: 100000", "\r\n{"), "a"), want: "408"},
		{name: "chunks a byte at a time", do: drip(head(jsonType, "Transfer-Encoding: chunked", ""), "1\r\na\r\n"), want: "408"},
		{name: "a body that stops", do: drip(head(jsonType, "Content-Length: 500000", "\r\n"+strings.Repeat(" ", 100_000)), ""), want: "408"},
		{name: "asks, and never listens", do: func(a *attacker) string {
			conn, err := a.dial()
			if err != nil {
				return "closed"
			}
			defer func() { _ = conn.Close() }()
			request := strings.Repeat("GET /x HTTP/1.1\r\nHost: x\r\n\r\n", 100)
			for err == nil { // until the answers that it does not read are in its way
				_, err = io.WriteString(conn, request)
				if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
					return "hangs"
				}
			}
			return "closed"
		}, want: "closed"},
		// Who comes with all their friends.
		{name: "700 that say nothing", crowd: true, do: crowd(700, "127.0.0.72", drip("", "")), want: "closed"},
		{name: "700 with half their headers", crowd: true, do: crowd(700, "127.0.0.73", drip("POST /events HTTP/1.1\r\nHost: x\r\nX-A: "+strings.Repeat("a", 15_000), "")), want: "closed"},
		{name: "300 with half their bodies", crowd: true, do: crowd(300, "127.0.0.74", drip(head(jsonType, "Content-Length: 900000", "\r\n"+strings.Repeat(" ", 200_000)), "")), want: "408|503|closed"},
		{name: "60 with long bodies of nothing", crowd: true, do: crowd(60, "127.0.0.75", post(strings.Repeat(" ", 900_000))), want: "400|503|closed"},
		{name: "too often", do: func(a *attacker) string {
			many := &attacker{a.t, a.target, "127.0.0.77", a.client}
			one := "GET /x HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\n"
			got := sayAll(strings.Repeat(one+"\r\n", 199) + one + "Connection: close\r\n\r\n")(many)
			if strings.Contains(got, "429") { // after as many as may be at once
				return "429"
			}
			return got
		}, want: "429"},
	}
	all := slices.Clone(plain)

	with := func(change func(*tls.Config)) *tls.Config {
		c := &tls.Config{RootCAs: ca.Pool, ServerName: "127.0.0.1"}
		if change != nil {
			change(c)
		}
		return c
	}
	certificate := func(by *bridgetest.CA, name string) func(*tls.Config) {
		pair := by.Client(t, func(c *x509.Certificate) { c.DNSNames = []string{name} })
		return func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
	}
	secured := func(c *tls.Config, do func(*attacker) string) func(*attacker) string {
		return func(a *attacker) string { return do(&attacker{a.t, a.target, a.from, c}) }
	}
	for _, one := range []attack{
		{name: "HTTP where TLS is", do: say(smuggled), want: "400|closed"},
		{name: "noise where TLS is", do: say(strings.Repeat("\x16\x03\x01\xff\xff\x01", 1000)), want: "closed"},
		{name: "a handshake a byte at a time", do: drip("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\x00"), want: "closed"},
		{name: "600 handshakes that stop", crowd: true, do: crowd(600, "127.0.0.78", drip("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "")), want: "closed"},
		{name: "TLS 1.1", do: secured(with(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), say(smuggled)), want: "closed"},
		{name: "HTTP/2 or nothing", do: secured(with(func(c *tls.Config) { c.NextProtos = []string{"h2"} }), say(smuggled)), want: "closed"},
		{name: "HTTP/2 all the same", do: secured(with(nil), say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+strings.Repeat("\x00\x00\x04\x03\x00\x00\x00\x00\x01\x00\x00\x00\x08", 10_000))), want: "404|closed"},
		{name: "no certificate", do: secured(with(nil), say(smuggled)), want: "401"},
		{name: "another's certificate", do: secured(with(certificate(ca, "evil.acme.internal")), say(smuggled)), want: "403"},
		{name: "a certificate of its own", do: secured(with(certificate(bridgetest.NewCA(t), "shop.acme.internal")), say(smuggled)), want: "closed"},
		{name: "a certificate without the token", do: secured(with(certificate(ca, "shop.acme.internal")), at("/events", event, jsonType)), want: "401"},
		{name: "headers a byte at a time, in TLS", do: secured(with(nil), drip("POST /events HTTP/1.1\r\nHost: x\r\nX-A: ", "a")), want: "408|closed"},
	} {
		one.tls = true
		all = append(all, one)
	}
	return all
}

// memory is a process' memory in KB, by the names of /proc; ok is false where there
// is no such thing.
func memory(pid int, name string) (kb int, ok bool) {
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, false
	}
	_, after, found := strings.Cut(string(status), name+":")
	fields := strings.Fields(after)
	if !found || len(fields) == 0 {
		return 0, false
	}
	kb, err = strconv.Atoi(fields[0])
	return kb, err == nil
}

// mostGrowth is how much a bridge may grow under attack, in KB.
const mostGrowth = 32 << 10

// Whatever is done to the public listener, it answers as it should and in time,
// takes little memory for it, lets none of it in, and serves everybody else
// meanwhile.
func TestAttacks(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t)
	ca := bridgetest.NewCA(t)
	cert, key := ca.Issue(t, nil)
	files := bridgetest.NewMount(t, map[string]string{"crt": string(cert), "key": string(key), "ca": string(ca.PEM)})
	const yaml = `
webhooks:
  - name: hub
    auth: {signature: {preset: github, secret: "${HUB}"}}
    event: {type: com.github.push}
  - name: std
    auth: {signature: {preset: standard-webhooks, secret: "${STD}"}}
routes: []
`
	env := map[string]string{
		"BRIDGE_HTTP_TOKEN": attackedToken, "HUB": attackedHub, "STD": attackedHook, "BRIDGE_WEBHOOK_SECRET": attackedPath,
		"BRIDGE_HTTP_CLIENT_RATE": "600", "BRIDGE_HTTP_PROXIES": "127.0.0.77",
	}
	open := bridgetest.Serve(t, server.URL, box, yaml, env)
	closed := bridgetest.Serve(t, server.URL, box, yaml, with(env,
		"BRIDGE_TLS_CERT", files.Path("crt"), "BRIDGE_TLS_KEY", files.Path("key"), "BRIDGE_TLS_CLIENT_CA", files.Path("ca"), "BRIDGE_TLS_CLIENT_NAMES", "shop.acme.internal",
	))
	closed.URL = strings.Replace(closed.URL, "http:", "https:", 1)
	shop := ca.Client(t, func(c *x509.Certificate) { c.DNSNames = []string{"shop.acme.internal"} })
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool, Certificates: []tls.Certificate{shop}}}
	t.Cleanup(transport.CloseIdleConnections)
	closed.Client = &http.Client{Transport: transport, Timeout: bridgetest.Deadline}
	for _, s := range []*bridgetest.Served{open, closed} {
		s.Start()
	}
	// The admin listener speaks no TLS, and any client does.
	for _, s := range []*bridgetest.Served{open, closed} {
		s.AwaitReady()
	}
	b := watch(t, server.URL)
	header := []string{"Content-Type", cloudevent.ContentTypeStructured, "Authorization", "Bearer " + attackedToken}
	normal := func(s *bridgetest.Served, id string) error {
		got, err := bridgetest.Do(t.Context(), s.Client, http.MethodPost, s.URL+"/events", structured(id), header...)
		if err == nil && got.Status != http.StatusAccepted {
			err = fmt.Errorf("%d: %s", got.Status, got.Body)
		}
		return err
	}
	for i := range 300 { // as it is when it has worked for a while
		for _, s := range []*bridgetest.Served{open, closed} {
			if err := normal(s, fmt.Sprintf("%s-warm-%d", s.URL, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := map[*bridgetest.Served]int{}
	for _, s := range []*bridgetest.Served{open, closed} {
		if rss, ok := memory(s.PID(), "VmRSS"); ok && os.WriteFile(filepath.Join("/proc", strconv.Itoa(s.PID()), "clear_refs"), []byte("5"), 0) == nil {
			before[s] = rss
		}
	}

	working, stop := context.WithCancel(t.Context())
	defer stop()
	var posters sync.WaitGroup
	sent := map[*bridgetest.Served]int{}
	var mu sync.Mutex
	for _, s := range []*bridgetest.Served{open, closed} {
		posters.Go(func() {
			for n := 0; working.Err() == nil; n++ {
				if err := normal(s, fmt.Sprintf("%s-normal-%d", s.URL, n)); err != nil {
					t.Errorf("a normal event at %s: %v", s.URL, err)
					return
				}
				mu.Lock()
				sent[s]++
				mu.Unlock()
				select {
				case <-working.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}

	all := attacks(t, ca)
	if len(all) < 60 {
		t.Errorf("only %d attacks", len(all))
	}
	for _, crowds := range []bool{false, true} {
		var attackers sync.WaitGroup
		for i, one := range all {
			if one.crowd != crowds {
				continue
			}
			target := open
			if one.tls {
				target = closed
			}
			_, addr, _ := strings.Cut(target.URL, "//")
			attackers.Go(func() {
				start := time.Now()
				got := one.do(&attacker{t: t, target: addr, from: fmt.Sprintf("127.0.1.%d", i+1)})
				if !slices.Contains(strings.Split(one.want, "|"), got) {
					t.Errorf("%s: %s, want %s", one.name, got, one.want)
				}
				if took := time.Since(start); took > attackLimit {
					t.Errorf("%s took %v", one.name, took)
				}
			})
		}
		attackers.Wait()
	}
	stop()
	posters.Wait()

	want := 2 * 300
	for s, n := range sent {
		if want += n; n < 20 {
			t.Errorf("%s took only %d normal events meanwhile", s.URL, n)
		}
	}
	if got := b.count("BRIDGE_EVENTS"); got != want {
		t.Errorf("%d events are on the bus, and %d were sent by who may", got, want)
		for _, m := range b.messages("BRIDGE_EVENTS") {
			if !bytes.Contains(m.Data(), []byte("-warm-")) && !bytes.Contains(m.Data(), []byte("-normal-")) {
				t.Errorf("on the bus: %.200q", m.Data())
			}
		}
	}
	for s, rss := range before {
		peak, _ := memory(s.PID(), "VmHWM")
		t.Logf("%s: %d KB before, %d KB at most, %d normal events meanwhile", s.URL, rss, peak, sent[s])
		if peak-rss > mostGrowth {
			t.Errorf("%s grew by %d KB, want at most %d", s.URL, peak-rss, mostGrowth)
		}
	}
	for _, s := range []*bridgetest.Served{open, closed} {
		if !s.Running() {
			t.Errorf("%s has ended", s.URL)
		}
		if log := s.Log.String(); strings.Contains(log, "panic") {
			t.Errorf("%s panicked", s.URL)
		}
	}
	t.Logf("%d attacks", len(all))
}
