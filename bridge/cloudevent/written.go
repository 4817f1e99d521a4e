package cloudevent

// Written is an event of our own making: its attributes are texts that are
// valid as they are, and its data is JSON. Writing one costs a fifth of what
// writing an Event does, which tells when it is done for every event.
type Written struct {
	// Attributes are all of them but specversion and datacontenttype, in the order in
	// which they are written. Those without a value are left out.
	Attributes []Attribute
	Data       []byte
}

// Attribute is a context attribute or an extension.
type Attribute struct{ Name, Value string }

// AppendJSON appends the event in the JSON format to dst.
func (w *Written) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"specversion":"1.0"`...)
	for _, a := range w.Attributes {
		if a.Value == "" {
			continue
		}
		dst = append(append(append(dst, `,"`...), a.Name...), `":`...)
		dst = appendString(dst, a.Value)
	}
	dst = append(dst, `,"datacontenttype":"application/json","data":`...)
	return append(append(dst, w.Data...), '}')
}

// Binary is the header of the event in the binary mode of NATS, whose payload
// is the data.
func (w *Written) Binary() map[string][]string {
	header := map[string][]string{"ce-specversion": {"1.0"}, "ce-datacontenttype": {"application/json"}}
	for _, a := range w.Attributes {
		if a.Value != "" {
			header["ce-"+a.Name] = []string{encodeHeader(a.Value)}
		}
	}
	return header
}
