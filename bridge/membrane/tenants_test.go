package membrane

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/bridge8x8/bridge8x8/bridge"
)

// Many more tenants than tokens are kept for, asked for by many at once: each
// request has its own tenant's token, and those that are kept take a few megabytes.
func TestMoreTenantsThanTokens(t *testing.T) {
	t.Parallel()
	const tenants, workers = 5 * maxTenants, 8
	var c clock
	o := Options{}
	minting(&c)(&o)
	tokens := newTokens(o)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < tenants; i += workers {
				want := fmt.Sprintf("tenant-%06d", i)
				h, err := tokens.header(want)
				if err != nil {
					t.Error(err)
					return
				}
				if i%997 != 0 { // of each worker some
					continue
				}
				var claims jwt.MapClaims
				if _, _, err := jwt.NewParser().ParseUnverified(h.Get("Authorization")[len("Bearer "):], &claims); err != nil || claims["id"] != want {
					t.Errorf("the token of %s is %v's: %v", want, claims["id"], err)
				}
			}
		})
	}
	wg.Wait()
	tokens.mu.Lock()
	defer tokens.mu.Unlock()
	if n := len(tokens.minted); n > maxTenants {
		t.Errorf("%d tokens are kept, want at most %d", n, maxTenants)
	}
	size := 0
	for tenant, m := range tokens.minted {
		size += len(tenant) + len(m.header.Get("Authorization"))
	}
	if perToken := size / len(tokens.minted); perToken > 512 {
		t.Errorf("a token takes %d bytes", perToken)
	}
}

// A tenant's tokens are kept: who asks again gets the same one, and one that was
// refused is renewed for that tenant alone.
func TestTenantsTokensAreTheirOwn(t *testing.T) {
	t.Parallel()
	var c clock
	o := Options{}
	minting(&c)(&o)
	tokens := newTokens(o)
	of := func(tenant string) string {
		t.Helper()
		h, err := tokens.header(tenant)
		if err != nil {
			t.Fatal(err)
		}
		return h.Get("Authorization")
	}
	one, two := of("one"), of("two")
	if one == two || of("one") != one || of("two") != two {
		t.Error("tokens are not kept, or not kept apart")
	}
	c.ahead.Store(int64(time.Minute))
	refused, err := tokens.header("one")
	if err != nil || !tokens.renew("one", refused) {
		t.Errorf("not renewed: %v", err)
	}
	if of("one") == one || of("two") != two {
		t.Error("the one that was refused is kept, or the other's was renewed as well")
	}
}

// A tenant whose reads are not answered keeps nobody else's from being answered:
// neither by its number of them, nor by the connections that they hold.
func TestReadsThatHang(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	var mu sync.Mutex
	hung := 0
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var claims jwt.MapClaims
		_, _, _ = jwt.NewParser().ParseUnverified(r.Header.Get("Authorization")[len("Bearer "):], &claims)
		if claims["id"] == "hangs" {
			mu.Lock()
			hung++
			mu.Unlock()
			<-gone
			return
		}
		body(200, `{"id":"c1","state":"READY","connected":true}`)(w, r)
	}).start(t)
	var c clock
	client := connect(t, s.URL, minting(&c))
	var probes sync.WaitGroup
	for range 10 * lookupConns {
		probes.Go(func() {
			if err := client.Probe(t.Context(), bridge.Place{Tenant: "hangs", ConnectionKey: "8x8-main"}); err == nil {
				t.Error("a probe without an answer went well")
			}
		})
	}
	for i := range 100 {
		if err := client.Probe(t.Context(), bridge.Place{Tenant: fmt.Sprint("well-", i), ConnectionKey: "8x8-main"}); err != nil {
			t.Error(err)
		}
	}
	mu.Lock()
	if hung > tenantsConns {
		t.Errorf("the tenant held %d connections at once", hung)
	}
	mu.Unlock()
	close(gone)
	probes.Wait()
	client.turns.mu.Lock()
	defer client.turns.mu.Unlock()
	if n := len(client.turns.of); n != 0 {
		t.Errorf("%d tenants are remembered who do nothing", n)
	}
}

// However many reads hang, each run finds a connection; and a run that takes its
// time leaves the reads theirs.
func TestReadsAndRunsLeaveRoom(t *testing.T) {
	t.Parallel()
	gone, hanging := make(chan struct{}), make(chan struct{}, lookupConns+1)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var claims jwt.MapClaims
		_, _, _ = jwt.NewParser().ParseUnverified(r.Header.Get("Authorization")[len("Bearer "):], &claims)
		if claims["id"] != "well" {
			hanging <- struct{}{}
			<-gone
		}
		body(200, `{"id":"c1","state":"READY","connected":true,"output":{},"actionRunId":"66f1"}`)(w, r)
	}).start(t)
	var c clock
	client := connect(t, s.URL, minting(&c), func(o *Options) { o.Concurrency = 2 })
	run := func(tenant string) {
		r := request()
		r.Tenant = tenant
		if reply, err := client.Run(t.Context(), r); err != nil || reply.RunID != "66f1" {
			t.Errorf("run of %s: %+v, %v", tenant, reply, err)
		}
	}
	var slow sync.WaitGroup
	slow.Go(func() { run("slow run") })
	<-hanging
	if err := client.Probe(t.Context(), bridge.Place{Tenant: "well", ConnectionKey: "8x8-main"}); err != nil {
		t.Errorf("a read beside a run: %v", err)
	}
	for i := range lookupConns {
		slow.Go(func() {
			if err := client.Probe(t.Context(), bridge.Place{Tenant: fmt.Sprint("hangs-", i), ConnectionKey: "8x8-main"}); err != nil {
				t.Error(err)
			}
		})
		<-hanging
	}
	for range 3 {
		run("well")
	}
	close(gone)
	slow.Wait()
}

// BenchmarkManyTenants is a token for a request where each comes from another of a
// hundred thousand tenants.
func BenchmarkManyTenants(b *testing.B) {
	var c clock
	o := Options{}
	minting(&c)(&o)
	tokens := newTokens(o)
	i := 0
	for b.Loop() {
		i++
		if _, err := tokens.header(fmt.Sprint("tenant-", i%100_000)); err != nil {
			b.Fatal(err)
		}
	}
}
