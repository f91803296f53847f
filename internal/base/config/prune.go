package config

// pruneSection is the policy of `gc --prune`; docs/prune.md explains each key. A
// rule of zero is passed on, and refused where rules are read.
type pruneSection struct {
	KeepLast     *int     `json:"keepLast"`
	KeepHourly   *int     `json:"keepHourly"`
	KeepDaily    *int     `json:"keepDaily"`
	KeepWeekly   *int     `json:"keepWeekly"`
	KeepMonthly  *int     `json:"keepMonthly"`
	KeepYearly   *int     `json:"keepYearly"`
	KeepWithin   string   `json:"keepWithin"`
	KeepLabel    []string `json:"keepLabel"`
	GroupBy      string   `json:"groupBy"`
	Max          *int     `json:"max"`
	MaxStoreSize string   `json:"maxStoreSize"`
}

func pruneSettings() []Setting {
	return []Setting{
		{"prune.keepLast", "COCOON_PRUNE_KEEP_LAST", ""},
		{"prune.keepHourly", "COCOON_PRUNE_KEEP_HOURLY", ""},
		{"prune.keepDaily", "COCOON_PRUNE_KEEP_DAILY", ""},
		{"prune.keepWeekly", "COCOON_PRUNE_KEEP_WEEKLY", ""},
		{"prune.keepMonthly", "COCOON_PRUNE_KEEP_MONTHLY", ""},
		{"prune.keepYearly", "COCOON_PRUNE_KEEP_YEARLY", ""},
		{"prune.keepWithin", "COCOON_PRUNE_KEEP_WITHIN", ""},
		{"prune.keepLabel", "COCOON_PRUNE_KEEP_LABEL", ""},
		{"prune.groupBy", "COCOON_PRUNE_GROUP_BY", "vm"},
		{"prune.max", "COCOON_PRUNE_MAX", ""},
		{"prune.maxStoreSize", "COCOON_PRUNE_MAX_STORE_SIZE", ""},
	}
}
