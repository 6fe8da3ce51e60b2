package worker

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ts turns
		groups := []*group{{cpu: "none"}, {cpu: "none"}, {cpu: "none"}}
		check := func(what string, want ...rank) {
			t.Helper()
			synctest.Wait()
			var got []rank
			for _, g := range groups {
				g.mu.Lock()
				got = append(got, g.rank)
				g.mu.Unlock()
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: ranks %v, want %v", what, got, want)
			}
		}
		ts.join(nil)
		ts.leave(nil)
		ts.join(groups[0])
		ts.join(groups[0])
		check("alone", rankTurn, rankFront, rankFront)
		time.Sleep(3 * turn)
		check("nobody else waits", rankTurn, rankFront, rankFront)
		ts.join(groups[1])
		ts.join(groups[2])
		check("joined", rankTurn, rankIdle, rankIdle)
		time.Sleep(turn)
		check("second turn", rankIdle, rankTurn, rankIdle)
		time.Sleep(turn)
		check("third turn", rankIdle, rankIdle, rankTurn)
		ts.hurry(groups[1])
		check("in a hurry", rankIdle, rankTurn, rankIdle)
		ts.leave(groups[1])
		check("left", rankIdle, rankFront, rankTurn)
		ts.hurry(groups[1])
		check("not among them", rankIdle, rankFront, rankTurn)
		time.Sleep(turn)
		check("its turn again", rankTurn, rankFront, rankIdle)
		ts.leave(groups[0])
		ts.leave(groups[2])
		check("all left", rankFront, rankFront, rankFront)
	})
}
