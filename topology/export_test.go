package topology

// IsLate is the rule of Stage.Late.
var IsLate = late
