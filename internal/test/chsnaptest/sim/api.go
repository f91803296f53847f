package sim

import (
	"encoding/json"
	"fmt"
	"os"
)

// Version is what vmm.ping reports, and buildVersion --version.
const (
	Version      = "53.0.0"
	buildVersion = "v53.0-simulator"
)

// endpoint is one call of the API: how it must be asked, the outer message of
// its errors, and what it does. A nil answer is 204; a non-nil one 200 with JSON.
type endpoint struct {
	method string
	body   bool
	outer  string
	do     func(m *machine, body []byte) (answer any, err error)
}

// plain makes an endpoint without a body and without an answer.
func plain(outer string, do func(m *machine) error) endpoint {
	return endpoint{method: "PUT", outer: outer, do: func(m *machine, _ []byte) (any, error) { return nil, do(m) }}
}

// endpoints lists the API by name.
func endpoints() map[string]endpoint {
	return map[string]endpoint{
		"vmm.ping":             {method: "GET", outer: "Error pinging the VMM", do: ping},
		"vmm.shutdown":         {method: "PUT", outer: "The VMM could not shutdown", do: shutdownVMM},
		"vm.create":            {method: "PUT", body: true, outer: "The VM could not be created", do: create},
		"vm.boot":              plain("The VM could not boot", (*machine).boot),
		"vm.info":              {method: "GET", outer: "The VM info is not available", do: info},
		"vm.counters":          {method: "GET", outer: "The VM info is not available", do: counters},
		"vm.pause":             plain("The VM could not be paused", (*machine).pause),
		"vm.resume":            plain("The VM could not resume", (*machine).resume),
		"vm.shutdown":          plain("The VM could not shutdown", (*machine).shutdown),
		"vm.delete":            plain("The VM could not be deleted", (*machine).delete),
		"vm.reboot":            plain("The VM could not reboot", (*machine).reboot),
		"vm.power-button":      plain("Error triggering power button", (*machine).pressPower),
		"vm.nmi":               plain("Error triggering NMI", (*machine).nmi),
		"vm.add-disk":          {method: "PUT", body: true, outer: "The disk could not be added to the VM", do: addDisk},
		"vm.remove-device":     {method: "PUT", body: true, outer: "The device could not be removed from the VM", do: removeDevice},
		"vm.resize-disk":       {method: "PUT", body: true, outer: "The disk could not be resized", do: resizeDisk},
		"vm.snapshot":          {method: "PUT", body: true, outer: "The VM could not be snapshotted", do: snapshot},
		"vm.restore":           {method: "PUT", body: true, outer: "The VM could not be restored", do: restore},
		"vm.send-migration":    {method: "PUT", body: true, outer: "Error dispatching the migration worker", do: sendMigration},
		"vm.receive-migration": {method: "PUT", body: true, outer: "Error receiving migration", do: receiveMigration},
	}
}

// stopVMM is the answer of vmm.shutdown: the process ends after it was sent.
type stopVMM struct{}

func ping(m *machine, _ []byte) (any, error) {
	return struct {
		Build    string   `json:"build_version"`
		Version  string   `json:"version"`
		PID      int      `json:"pid"`
		Features []string `json:"features"`
	}{m.settings.build, m.settings.version, os.Getpid(), []string{"io_uring", "kvm"}}, nil
}

func shutdownVMM(m *machine, _ []byte) (any, error) {
	return stopVMM{}, m.delete()
}

func create(m *machine, body []byte) (any, error) {
	c, err := parseConfig(body)
	if err != nil {
		return nil, errDeserialise(err.Error())
	}
	return nil, m.create(c)
}

func info(m *machine, _ []byte) (any, error) {
	if m.sending != nil {
		return m.sending.before, nil
	}
	i, err := m.info()
	if err != nil {
		return nil, err
	}
	return i, nil
}

func counters(m *machine, _ []byte) (any, error) {
	if m.vm == nil {
		return nil, errNotRunning()
	}
	return struct{}{}, nil
}

func snapshot(m *machine, body []byte) (any, error) {
	r := urlRequest{}
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if r.DestinationURL == nil {
		return nil, missingField(body, "destination_url")
	}
	return nil, m.snapshot(*r.DestinationURL)
}

func restore(m *machine, body []byte) (any, error) {
	r := &restoreRequest{}
	if err := decode(body, r); err != nil {
		return nil, err
	}
	if r.SourceURL == nil {
		return nil, missingField(body, "source_url")
	}
	switch r.Mode {
	case "", "Copy", "OnDemand":
		return nil, m.restore(r)
	}
	return nil, errDeserialise(fmt.Sprintf("unknown variant `%s`, expected `Copy` or `OnDemand` %s", r.Mode, position(body)))
}

func sendMigration(m *machine, body []byte) (any, error) {
	r := urlRequest{}
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if r.DestinationURL == nil {
		return nil, missingField(body, "destination_url")
	}
	return nil, m.sendMigration(*r.DestinationURL)
}

func receiveMigration(m *machine, body []byte) (any, error) {
	r := struct {
		URL *string `json:"receiver_url"`
	}{}
	if err := decode(body, &r); err != nil {
		return nil, err
	}
	if r.URL == nil {
		return nil, missingField(body, "receiver_url")
	}
	return nil, m.receive(*r.URL)
}

// reply is a complete HTTP answer.
type reply struct {
	status int
	body   []byte
	stop   bool // end the process once sent
}

func errorReply(e *apiError) reply { return reply{status: e.status, body: e.body()} }

var (
	notFound   = apiError{status: 404, chain: []string{"Not Found"}}
	badRequest = apiError{status: 400, chain: []string{"Bad Request"}}
)

// call runs one request through failpoints and endpoint.
func (m *machine) call(method, name string, body []byte) reply {
	e, ok := endpoints()[name]
	switch {
	case !ok:
		return errorReply(&notFound)
	case method != "GET" && method != "PUT":
		return reply{status: 400}
	case method != e.method || e.body != (len(body) > 0):
		return errorReply(&badRequest)
	}
	rule := m.settings.fail.next(name)
	if r, stop := m.before(rule, e); stop {
		return r
	}
	var answer any
	var err error
	if m.sending != nil && needsVM(name) {
		err = errMigrating()
	} else {
		answer, err = e.do(m, body)
	}
	m.noSpace = false
	if r, stop := m.after(rule, e); stop {
		return r
	}
	return finish(e, answer, err)
}

// needsVM tells which calls a migration under way keeps out.
func needsVM(name string) bool {
	return name != "vmm.ping" && name != "vm.info" && name != "vm.send-migration"
}

func finish(e endpoint, answer any, err error) reply {
	if err != nil {
		return errorReply(asAPIError(e.outer, err))
	}
	switch answer.(type) {
	case nil:
		return reply{status: 204}
	case stopVMM:
		return reply{status: 200, stop: true}
	}
	b, err := json.Marshal(answer)
	if err != nil {
		return errorReply(asAPIError(e.outer, err))
	}
	return reply{status: 200, body: b}
}
