package simulate

// ring is a queue of times.
type ring struct {
	buf  []int64
	head int
	n    int
}

func (r *ring) push(v int64) {
	if r.n == len(r.buf) {
		buf := make([]int64, max(4, 2*r.n))
		for i := range r.n {
			buf[i] = r.at(i)
		}
		r.buf, r.head = buf, 0
	}
	r.buf[r.index(r.n)] = v
	r.n++
}

func (r *ring) pop() int64 {
	v := r.buf[r.head]
	r.head = r.index(1)
	r.n--
	return v
}

// at returns the i-th from the front.
func (r *ring) at(i int) int64 { return r.buf[r.index(i)] }

func (r *ring) index(i int) int {
	if i += r.head; i >= len(r.buf) {
		i -= len(r.buf)
	}
	return i
}

// event is a time at which something is due for a template.
type event struct {
	at int64
	id int32
}

// events is a binary heap, earliest first; equal times in the order of templates.
type events []event

func (e event) before(o event) bool {
	return e.at < o.at || e.at == o.at && e.id < o.id
}

func (h *events) push(x event) {
	a := append(*h, x)
	for i := len(a) - 1; i > 0; {
		up := (i - 1) / 2
		if !a[i].before(a[up]) {
			break
		}
		a[up], a[i] = a[i], a[up]
		i = up
	}
	*h = a
}

func (h *events) pop() event {
	a := *h
	x := a[0]
	a[0] = a[len(a)-1]
	a = a[:len(a)-1]
	for i := 0; ; {
		c := 2*i + 1
		if c >= len(a) {
			break
		}
		if c+1 < len(a) && a[c+1].before(a[c]) {
			c++
		}
		if !a[c].before(a[i]) {
			break
		}
		a[i], a[c] = a[c], a[i]
		i = c
	}
	*h = a
	return x
}

// jobs are builds under way. All of one kind take equally long, so the first to
// begin is the first to end.
type jobs struct {
	buf  []event
	head int
}

func (j *jobs) push(x event) { j.buf = append(j.buf, x) }

func (j *jobs) pop() event {
	x := j.buf[j.head]
	j.head++
	if j.head == len(j.buf) {
		j.buf, j.head = j.buf[:0], 0
	}
	return x
}

// next returns when the first ends; never when there is none.
func (j *jobs) next() int64 {
	if j.head == len(j.buf) {
		return never
	}
	return j.buf[j.head].at
}

// ids is a queue of templates that want a builder.
type ids struct {
	buf  []int32
	head int
}

func (q *ids) push(id int32) { q.buf = append(q.buf, id) }

func (q *ids) pop() int32 {
	id := q.buf[q.head]
	q.head++
	if q.head == len(q.buf) {
		q.buf, q.head = q.buf[:0], 0
	}
	return id
}

func (q *ids) empty() bool { return q.head == len(q.buf) }
