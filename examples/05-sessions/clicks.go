package main

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace-io/millrace/processor"
)

// click is one click as it is sent.
type click struct {
	user, page string
	at         time.Time
	sent       time.Time // a little later, sometimes: then it is out of order
}

// late is how much later than it happened a click may be sent. Clicks of a session are closer together than the gap less this, and
// sessions farther apart than the gap and this: so it does not matter who else clicks meanwhile.
const late = 5 * time.Minute

// generate makes a day of clicks, the same ones every time. At its end each user clicks once more, a day later: that ends
// what was still open.
func generate(users int, start time.Time) (day []click) {
	random := rand.New(rand.NewPCG(2026, 5))
	for u := range users {
		user := fmt.Sprintf("user-%03d", u)
		at := start.Add(time.Duration(random.Int64N(int64(6 * time.Hour))))
		for range 1 + random.IntN(5) {
			for range 1 + random.IntN(12) {
				c := click{user, fmt.Sprintf("/page/%d", random.IntN(6)), at, at}
				if random.IntN(10) == 0 {
					c.sent = at.Add(time.Duration(random.Int64N(int64(late))))
				}
				day = append(day, c)
				at = at.Add(time.Second + time.Duration(random.Int64N(int64(gap-2*late))))
			}
			at = at.Add(gap + 2*late + time.Duration(random.Int64N(int64(3*time.Hour))))
		}
		tomorrow := start.Add(48*time.Hour + time.Duration(u)*time.Second)
		day = append(day, click{user, "/", tomorrow, tomorrow})
	}
	for i := range day {
		day[i].at, day[i].sent = day[i].at.Truncate(time.Millisecond), day[i].sent.Truncate(time.Millisecond)
	}
	slices.SortStableFunc(day, func(a, b click) int { return a.sent.Compare(b.sent) })
	return day
}

func records(day []click) iter.Seq2[processor.Record[string, string], error] {
	return func(yield func(processor.Record[string, string], error) bool) {
		for _, c := range day {
			if !yield(processor.Record[string, string]{Key: c.user, Value: c.page, Time: c.at}, nil) {
				return
			}
		}
	}
}

// cut finds the sessions the slow way: each user's clicks, sorted, cut where they are apart. The last one of each user goes on.
func cut(day []click) map[string][]Summary {
	byUser := map[string][]click{}
	for _, c := range day {
		byUser[c.user] = append(byUser[c.user], c)
	}
	want := map[string][]Summary{}
	for user, all := range byUser {
		slices.SortStableFunc(all, func(a, b click) int { return a.at.Compare(b.at) })
		counts := map[string]int64{}
		var s Summary
		for i, c := range all {
			if i > 0 && !c.at.Before(s.Ended) {
				want[user] = append(want[user], s.with(counts))
				counts, s = map[string]int64{}, Summary{}
			}
			if s.Clicks == 0 {
				s.Began = c.at.UTC()
			}
			s.Clicks++
			s.Ended = c.at.Add(gap).UTC()
			counts[c.page]++
		}
	}
	return want
}

func (s Summary) with(counts map[string]int64) Summary {
	most := int64(0)
	for page, n := range counts {
		if s.Pages++; n > most || n == most && page < s.Favourite {
			most, s.Favourite = n, page
		}
	}
	return s
}

func compare(got []processor.Record[string, Summary], want map[string][]Summary) error {
	mine := map[string][]Summary{}
	for _, r := range got {
		s := r.Value
		s.Began, s.Ended = s.Began.UTC(), s.Ended.UTC()
		mine[r.Key] = append(mine[r.Key], s)
	}
	n := 0
	for user := range want {
		n += len(want[user])
		if !slices.Equal(mine[user], want[user]) {
			return fmt.Errorf("the sessions of %s are %v, and should be %v", user, mine[user], want[user])
		}
	}
	if len(got) != n {
		return fmt.Errorf("%d sessions, and %d should be", len(got), n)
	}
	return nil
}
