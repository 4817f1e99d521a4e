package config

// result reads how a route's result events look.
func (d *decoder) result(r *Route, o object) {
	v, ok := o.get("result")
	if !ok {
		return
	}
	m := d.object(v, "result", "type", "subject", "data", "failed")
	r.Result = d.shape(m)
	if failed, ok := m.get("failed"); ok {
		r.ResultFailed = d.shape(d.object(failed, "failed", "type", "subject", "data"))
	}
}

// shape is nil if it changes nothing.
func (d *decoder) shape(o object) *ResultShape {
	s := &ResultShape{Pos: o.Pos, Type: d.template(o, "type"), Subject: d.template(o, "subject")}
	s.Data, _ = o.get("data")
	if s.Type.Kind == KindNone && s.Subject.Kind == KindNone && s.Data.Kind == KindNone {
		return nil
	}
	return s
}
