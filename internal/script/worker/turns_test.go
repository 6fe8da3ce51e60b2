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
		time.Sleep(longTurn)
		check("still alone", rankTurn, rankFront, rankFront)
		ts.quick.Add(1)
		time.Sleep(longTurn)
		check("pause", rankIdle, rankFront, rankFront)
		ts.join(groups[1])
		ts.join(groups[2])
		check("joined", rankIdle, rankIdle, rankIdle)
		ts.quick.Add(1)
		time.Sleep(pause)
		check("the newest first", rankIdle, rankIdle, rankTurn)
		time.Sleep(turn)
		check("pause once more", rankIdle, rankIdle, rankIdle)
		ts.quick.Add(1)
		time.Sleep(pause)
		check("second turn", rankIdle, rankTurn, rankIdle)
		time.Sleep(turn)
		check("pause again", rankIdle, rankIdle, rankIdle)
		ts.hurry(groups[1])
		check("in a hurry", rankIdle, rankTurn, rankIdle)
		ts.hurry(groups[0])
		check("another in a hurry", rankTurn, rankIdle, rankIdle)
		ts.leave(groups[0])
		check("left", rankFront, rankIdle, rankIdle)
		ts.hurry(groups[0])
		check("not among them", rankFront, rankIdle, rankIdle)
		time.Sleep(longTurn)
		check("the next", rankFront, rankTurn, rankIdle)
		ts.leave(groups[1])
		ts.leave(groups[2])
		check("all left", rankFront, rankFront, rankFront)
		time.Sleep(2 * longTurn)
		ts.join(groups[2])
		ts.join(groups[0])
		check("the first again", rankIdle, rankFront, rankTurn)
		time.Sleep(longTurn)
		check("no pause", rankTurn, rankFront, rankIdle)
		ts.leave(groups[0])
		ts.leave(groups[2])
		time.Sleep(longTurn)
	})
}
