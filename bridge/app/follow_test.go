package app_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/bridge8x8/bridge8x8/bridge"
	"github.com/bridge8x8/bridge8x8/bridge/bridgetest"
)

const exportRoute = bridgetest.Routes + `  - name: report
    on: com.acme.report.wanted
    run: request-sms-log-export
    input: {from: "${ .data.from }", to: "${ .data.to }"}
    then:
      run: get-sms-log-export-result
      input: {jobId: "${ $output.jobId }"}
      until: ${ .status == "succeeded" }
      fails: ${ .status | IN("failed", "cancelled", "error", "empty") }
      backoff: {initial: 250ms, max: 500ms}
      deadline: 2m
  - name: sure
    on: com.acme.code.wanted
    run: send-sms
    input: {destination: "${ .data.phone }", text: Your code}
    then: {until: delivered, deadline: 1h}
`

// A log export that an event asks for ends in one result event with the links
// to its files, although the bridge is killed and then deployed anew meanwhile.
func TestLogExportThroughRestarts(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t, "--receipt-delay", "2s")
	served := bridgetest.Serve(t, server.URL, box, exportRoute, map[string]string{"BRIDGE_ACK_WAIT": "1s"})
	served.Start()
	served.AwaitReady()
	b := watch(t, server.URL)
	s := sender{t: t, url: served.URL, client: served.Client}
	if err := s.postStructured("one"); err != nil { // something to be exported
		t.Fatal(err)
	}
	bridgetest.Await(t, "a message", func() error { return b.atLeast("BRIDGE_RESULTS", 1) })
	const wanted = `{"specversion":"1.0","id":"report","source":"/reports","type":"com.acme.report.wanted","data":{"from":"2020-01-01","to":"2099-01-01"}}`
	if got := served.Post("/events", wanted, "Content-Type", "application/cloudevents+json"); got.Status != http.StatusAccepted {
		t.Fatal(got)
	}
	following := func() error {
		rec, err := record(t, b, "/reports", "report", "report")
		if err != nil {
			return err
		}
		if rec.State != bridge.Following || rec.Follow.Polls == 0 {
			return fmt.Errorf("it is %s, with %+v", rec.State, rec.Follow)
		}
		return nil
	}
	bridgetest.Await(t, "it follows", following)
	served.Kill()
	served.Start()
	served.AwaitReady()
	if err := following(); err != nil {
		t.Logf("it ended before the second restart: %v", err)
	}
	if code := served.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	served.Start()
	served.AwaitReady()
	bridgetest.Await(t, "its result", func() error { return b.atLeast("BRIDGE_RESULTS", 2) })
	b.awaitIdle()

	results := b.results()["report"]
	if len(results) != 1 || !strings.HasSuffix(results[0].Subject, ".request-sms-log-export.succeeded") {
		t.Fatalf("results: %+v; dead letters: %v", results, b.letters())
	}
	r := results[0].Data
	if r.Attempts != 1 || r.FollowUp == nil || r.FollowUp.Action != "get-sms-log-export-result" || r.FollowUp.Polls < 2 {
		t.Errorf("data %+v, followUp %+v", r, r.FollowUp)
	}
	var began struct{ JobID string }
	var answer struct {
		Status string
		Data   []string
	}
	if err := json.Unmarshal(r.Output, &began); err != nil || began.JobID == "" {
		t.Errorf("output %s: %v", r.Output, err)
	}
	if err := json.Unmarshal(r.FollowUp.Output, &answer); err != nil || answer.Status != "succeeded" || len(answer.Data) == 0 {
		t.Fatalf("answer %s: %v", r.FollowUp.Output, err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, answer.Data[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := served.Client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	file, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !strings.HasPrefix(string(file), "umid,") {
		t.Errorf("the file: %d, %v", response.StatusCode, err)
	}
	if n := box.CountEffects(); n != 2 {
		t.Errorf("%d effects, want the message and the export", n)
	}
	if letters := b.letters(); len(letters) > 0 {
		t.Errorf("dead letters: %v", letters)
	}
}

// A message whose receipt is awaited ends when that says delivered, or that it
// was not, and that is one result.
func TestUntilDelivered(t *testing.T) {
	t.Parallel()
	server := bridgetest.NATSServer(t)
	box := bridgetest.StartSandbox(t, "--receipt-delay", "200ms")
	served := bridgetest.Serve(t, server.URL, box, strings.Replace(exportRoute, "deadline: 1h", "deadline: 1h, backoff: {initial: 100ms, max: 500ms}", 1),
		map[string]string{"BRIDGE_ACK_WAIT": "1s"})
	served.Start()
	served.AwaitReady()
	b := watch(t, server.URL)
	// The sandbox's numbers that end in 01 are not delivered.
	for id, phone := range map[string]string{"well": "+12025550110", "badly": "+12025550101"} {
		got := served.Post("/events", fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/shop","type":"com.acme.code.wanted","data":{"phone":%q}}`, id, phone), "Content-Type", "application/cloudevents+json")
		if got.Status != http.StatusAccepted {
			t.Fatal(got)
		}
	}
	bridgetest.Await(t, "two results", func() error { return b.atLeast("BRIDGE_RESULTS", 2) })
	b.awaitIdle()
	results := b.results()
	well, badly := results["well"], results["badly"]
	if len(well) != 1 || len(badly) != 1 {
		t.Fatalf("results %v", results)
	}
	if f := well[0].Data.FollowUp; f == nil || f.Receipt != "delivered" || well[0].Data.Error != nil {
		t.Errorf("%+v, followUp %+v", well[0].Data, f)
	}
	if e := badly[0].Data.Error; e == nil || e.Reason != bridge.ReasonFollowUpFailed || badly[0].Data.FollowUp.Receipt != "undelivered" {
		t.Errorf("%+v, error %+v", badly[0].Data, e)
	}
	if letters := b.letters(); len(letters) != 1 || letters[0].Reason != "follow_up_failed" || letters[0].Cause != "badly" {
		t.Errorf("dead letters %v", letters)
	}
	if n := box.CountEffects(); n != 2 {
		t.Errorf("%d effects", n)
	}
}

// record reads a pair's record from the ledger.
func record(t *testing.T, b *observed, source, id, route string) (rec bridge.Record, err error) {
	t.Helper()
	st, err := b.js.Stream(t.Context(), "KV_BRIDGE_LEDGER")
	if err != nil {
		return rec, err
	}
	m, err := st.GetLastMsgForSubject(t.Context(), "$KV.BRIDGE_LEDGER."+string(bridge.NewKey(bridge.EventHash(source, id), route, 0)))
	if err != nil {
		return rec, err
	}
	return rec, json.Unmarshal(m.Data, &rec)
}
