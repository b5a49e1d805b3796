//! The text is what the table says: each family once, with its numbers.

use super::*;
use crate::clock::Now;
use crate::memory::{ClassStats, CompactionStats, LargeStats, ReclaimStats};
use crate::pressure::{Level, Reading, Source};
use std::time::Duration;

fn snapshot() -> Snapshot {
    let class = ClassStats {
        slab_size_bytes: 1024,
        total: 10,
        used: 3,
        free: 6,
        scrubbing: 1,
        retired: 0,
        created: 10,
        allocations: 8,
        reused: 2,
        committed_bytes: 12_288,
        ..ClassStats::default()
    };
    let link = |state| LinkSnapshot { status: LinkStatus::new(state, Now(0)), pushes: (4, 1) };
    let mut buckets = [0; DURATION_BUCKETS.len() + 1];
    (buckets[1], buckets[3], buckets[14]) = (2, 1, 1);
    Snapshot {
        version: "2.0.0",
        active_allocations: 3,
        allocated_bytes: 3072,
        allocations_max: 10,
        metadata_bytes: 500,
        inflight_bytes: 7,
        inflight_bytes_max: 100,
        waiting_requests: 0,
        reserved_bytes: 64,
        leaked_bytes: vec![("other".to_owned(), 3), ("buffer".to_owned(), 4)],
        tag_bytes: vec![("cache".to_owned(), 5)],
        large_objects: 2,
        large_object_bytes: 8192,
        leases_expired: 3,
        seconds_since_reclaim: 12.5,
        lease_lag: Distribution { bounds: &[0.01, 0.1], counts: vec![1, 1, 1], sum_seconds: 1.5 },
        allocation_durations: Distribution {
            bounds: &[0.000_000_1, 0.001],
            counts: vec![700, 20, 1],
            sum_seconds: 0.25,
        },
        circuit_open: true,
        circuit_opened: 3,
        health_score: 0.875,
        heap: HeapStats {
            in_use_bytes: 4096,
            limit_bytes: 10_240,
            pool_size_bytes: 10_240,
            retired_bytes: 1024,
            guard_violations: [1, 2],
            classes: vec![class],
            reclaim: ReclaimStats { slices: [1, 2, 3, 4], bytes: 4096, last_slice: None },
            compaction: CompactionStats { moves: 6, moved_bytes: 6144, kept: 1 },
            large: LargeStats {
                free_bytes: 4096,
                largest_free_bytes: 3072,
                allocations: 4,
                free_list_hits: 1,
                frees: 10,
                coalesced_frees: 4,
                coalesces: 6,
                huge_eligible_bytes: 8,
                huge_bytes: 6,
                ..LargeStats::default()
            },
            ..HeapStats::default()
        },
        arenas: ArenasSnapshot {
            open: 2,
            created: vec![("tiny", 4)],
            ended: vec![("committed", 1), ("rolled_back", 0)],
            chunk_bytes: 8192,
            used_bytes: 400,
        },
        pressure: PressureSnapshot {
            reading: Reading {
                level: Level::High,
                ratio: 0.75,
                pool_ratio: 0.75,
                system_ratio: Some(0.5),
                source: Source::Pool,
            },
            psi_avg10: None,
            transitions: [1, 2, 3, 4, 5],
            predicted: [0.75, 0.875, 1.0],
            confidence: 0.25,
            seconds_to_critical: None,
            relief: [ReliefSnapshot { runs: 2, reclaimed_bytes: 4096, time: Duration::from_millis(1500) }; 3],
        },
        http: HttpSnapshot {
            requests: vec![RequestCount {
                method: "POST",
                route: "/allocate".to_owned(),
                status: 201,
                count: 8,
            }],
            durations: vec![RequestDurations {
                method: "POST",
                route: "/allocate".to_owned(),
                buckets,
                sum_seconds: 11.5,
            }],
            refused: vec![("pool-exhausted", 5)],
            timed_out: vec![("head", 2)],
            ..HttpSnapshot::default()
        },
        backend: link(LinkState::Reconnecting),
        pushgateway: link(LinkState::Off),
    }
}

#[test]
fn the_text_says_what_the_snapshot_says() {
    let text = render(&snapshot());
    for line in [
        "# TYPE maas_active_allocations gauge",
        "maas_active_allocations 3",
        "maas_allocation_size_bytes 3072",
        "maas_pool_size_bytes 10240",
        "maas_utilization_percent 40",
        "maas_pool_utilization_ratio 0.4",
        r#"maas_request_count{method="POST",route="/allocate",status="201"} 8"#,
        r#"maas_http_requests_total{method="POST",route="/allocate",status="201"} 8"#,
        r#"maas_slab_reuse_total{slab_size="1024"} 2"#,
        r#"maas_slab_reuse_ratio{slab_size="1024"} 0.25"#,
        r#"maas_slabs{slab_size="1024",state="scrubbing"} 1"#,
        r#"maas_slabs{slab_size="1024",state="retired"} 0"#,
        "maas_retired_bytes 1024",
        r#"maas_allocation_duration_seconds_bucket{le="0.0000001"} 700"#,
        r#"maas_allocation_duration_seconds_bucket{le="+Inf"} 721"#,
        "maas_allocation_duration_seconds_sum 0.25",
        "maas_health_score 0.875",
        "maas_circuit_breaker_open 1",
        "maas_circuit_breaker_opened_total 3",
        r#"maas_guard_violations_total{kind="canary"} 1"#,
        r#"maas_guard_violations_total{kind="use_after_free"} 2"#,
        r#"maas_http_request_duration_seconds_bucket{method="POST",route="/allocate",le="0.000025"} 2"#,
        r#"maas_http_request_duration_seconds_bucket{method="POST",route="/allocate",le="10"} 3"#,
        r#"maas_http_request_duration_seconds_bucket{method="POST",route="/allocate",le="+Inf"} 4"#,
        r#"maas_http_request_duration_seconds_count{method="POST",route="/allocate"} 4"#,
        r#"maas_http_request_duration_seconds_sum{method="POST",route="/allocate"} 11.5"#,
        r#"maas_refused_total{reason="pool-exhausted"} 5"#,
        "maas_backend_up 0",
        r#"maas_connection_state{state="reconnecting"} 1"#,
        r#"maas_connection_state{state="connected"} 0"#,
        r#"maas_push_attempts_total{target="backend",result="error"} 1"#,
        r#"maas_build_info{version="2.0.0"} 1"#,
        "maas_reserved_bytes 64",
        "maas_large_objects 2",
        "maas_large_object_bytes 8192",
        "maas_large_allocations_total 4",
        "maas_free_run_bytes 4096",
        "maas_fragmentation_ratio 0.25",
        "maas_free_list_hit_ratio 0.25",
        "maas_coalesces_total 6",
        "maas_coalescing_efficiency_ratio 0.4",
        "maas_huge_page_ratio 0.75",
        r#"maas_tag_bytes{tag="cache"} 5"#,
        r#"maas_tag_bytes{tag="other"} 0"#,
        r#"maas_leaked_bytes{tag="buffer"} 4"#,
        r#"maas_leaked_bytes{tag="other"} 3"#,
        "maas_lease_expired_total 3",
        "maas_arenas 2",
        r#"maas_arenas_created_total{profile="tiny"} 4"#,
        r#"maas_arenas_ended_total{state="rolled_back"} 0"#,
        "maas_arena_chunk_bytes 8192",
        "maas_arena_used_bytes 400",
        "maas_compaction_moves_total 6",
        "maas_compaction_bytes_total 6144",
        r#"maas_reclaim_total{action="surplus"} 2"#,
        "maas_reclaimed_bytes_total 4096",
        "maas_seconds_since_last_reclaim 12.5",
        "maas_pressure_level 2",
        r#"maas_pressure_ratio{source="pool"} 0.75"#,
        r#"maas_pressure_ratio{source="system"} 0.5"#,
        "maas_pressure_stalled_ratio NaN",
        r#"maas_pressure_transitions_total{level="emergency"} 5"#,
        r#"maas_predicted_utilization_ratio{horizon="60s"} 0.875"#,
        "maas_prediction_confidence_ratio 0.25",
        "maas_seconds_to_critical inf",
        r#"maas_pressure_reclaims_total{action="aggressive_reclaim"} 2"#,
        r#"maas_pressure_reclaimed_bytes_total{action="gentle_reclaim"} 4096"#,
        r#"maas_pressure_reclaim_seconds_total{action="emergency"} 1.5"#,
        r#"maas_lease_expiry_lag_seconds_bucket{le="0.1"} 2"#,
        "maas_lease_expiry_lag_seconds_count 3",
        "maas_lease_expiry_lag_seconds_sum 1.5",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
    }
}

#[test]
fn the_64_tags_with_most_bytes_are_shown_and_the_rest_is_other_whatever_tags_are_called() {
    let mut all: Vec<_> = (1..=70).map(|bytes| (format!("t{bytes}"), bytes)).collect();
    all.push(("other".to_owned(), 1_000));
    let shown: Vec<_> = tags(&all).map(|(labels, bytes)| (labels[0].1.clone(), bytes)).collect();
    assert_eq!((shown.len(), &shown[0]), (65, &("t70".to_owned(), 70.0)));
    assert_eq!((&shown[63], &shown[64]), (&("t7".to_owned(), 7.0), &("other".to_owned(), 1_021.0)));
    assert_eq!(tags(&[]).map(|(_, bytes)| bytes).collect::<Vec<_>>(), [0.0]);
}

#[test]
fn every_row_of_the_table_is_rendered_once_and_nothing_else() {
    let text = render(&snapshot());
    let mut rendered: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let mut table: Vec<&str> = rows::ALL.iter().map(|row| row.name).collect();
    rendered.sort_unstable();
    table.sort_unstable();
    assert_eq!(rendered, table);
}

#[test]
fn the_process_is_in_the_text_that_is_sent() {
    let text = render_with_process(&snapshot());
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    assert!(text.contains("\nprocess_open_fds "), "{text}");
}
