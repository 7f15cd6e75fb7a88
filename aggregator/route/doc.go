// Package route folds the paths of requests into templates, so that
// /users/123 and /users/456 count as one route, /users/{id}, which nobody has
// to declare.
//
// [Shape] knows ids by how they look: numbers, UUIDs, hashes, tokens, dates,
// addresses. A [Tree] learns, for one workload, the rest: a segment that has
// shown more than [Variety] values under one prefix becomes {*}, but for those
// values that make up much of the traffic, as "me" in /users/me. What was
// counted before under its own name is found again: [Tree.Canonical] of an
// earlier template is what it would be now.
//
// Both give templates whose template is themselves, in bounded memory, whatever
// the paths are.
package route
