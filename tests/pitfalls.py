"""What goes wrong in pipelines like this one, and the tests that would fail if it did here.

Rows are numbered as in the collection ``../shared/PITFALLS.md``; its unnumbered notes on real data
follow as letters. ``tests/test_pitfalls.py`` holds the table to the tests that exist.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One trap.

    Attributes:
        trap: in a few words.
        tests: ``file::test`` or ``file::Class::test``, files below tests/; any of them fails if
            the trap is there.
        why_not: why the trap cannot be met here; only where there is no test.
    """

    trap: str
    tests: tuple[str, ...] = ()
    why_not: str = ""


PITFALLS: dict[str, Row] = {
    "1": Row("built on a loader that nobody maintains", (
        "test_pitfalls_reading.py::test_maps_are_read_without_stackstac",
        "test_load_real.py::test_stackstac_gives_the_same",
    )),
    "2": Row("pixels that depend on chunks; silent float64; memory without bound", (
        "test_load.py::test_chunks_do_not_matter",
        "test_load_blocks.py::test_a_chunk_of_one_value_is_no_gap",
        "test_tiling.py::test_a_pixel_is_the_same_in_any_area_and_tiling",
        "test_pitfalls_reading.py::"
        "test_where_a_pixel_is_looked_for_does_not_depend_on_the_window",
        "test_load.py::test_dataset_is_lazy_and_described",
        "test_pitfalls_reading.py::test_few_tiles_are_read_ahead_and_no_more",
    )),
    "3": Row("projection metadata that is wrong or has another name", (
        "test_load.py::test_stated_grids_and_outlines_are_not_believed",
        "test_load.py::test_swapped_width_and_height",
        "test_pitfalls_reading.py::test_either_name_of_the_crs_is_understood",
        "test_pitfalls_reading.py::"
        "test_the_unwarped_tile_of_a_pass_comes_first_whatever_its_crs_is_called",
    )),
    "4": Row("scale and offset not applied, or applied alike to all images", (
        "test_load.py::test_each_item_its_own_offset",
        "test_prep.py::test_scale_per_acquisition",
        "test_sources.py::test_recorded_scalings",
        "test_load_real.py::test_sentinel_2_against_rasterio",
    )),
    "5": Row("nodata that the metadata do not state", (
        "test_pitfalls_radiometry.py::test_nodata_is_the_tables_where_the_file_is_silent",
        "test_prep.py::test_a_pass_counts_once",
        "test_sources.py::test_table_is_whole",
    )),
    "6": Row("read errors that are logged and forgotten, without the asset's name", (
        "test_load_files.py::test_a_lost_file_fails_and_is_named",
        "test_load_files.py::test_a_file_that_the_server_lacks",
        "test_map_failures.py::test_an_unreadable_asset_fails_its_tiles_only",
    )),
    "7": Row("reader settings that do not reach the workers", (
        "test_pitfalls_reading.py::test_the_loaders_settings_go_wherever_a_file_is_read",
    )),
    "8": Row("graphs that overwhelm scheduler and memory", (
        "test_pitfalls_reading.py::test_the_graph_of_a_tile_does_not_grow_with_the_area",
        "test_pitfalls_reading.py::test_few_tiles_are_read_ahead_and_no_more",
    )),
    "9": Row("tokens that end before the file is read", (
        "test_pitfalls_reading.py::test_files_are_signed_when_they_are_opened_and_each_time_anew",
        "test_faults_files.py::test_a_token_that_ends_is_renewed_and_the_read_goes_on",
        "test_faults_files.py::test_a_token_that_is_about_to_end_is_not_begun_with",
        "test_items.py::test_nothing_signed_is_frozen",
        "test_items.py::test_tokens_go_to_azure_only",
        "test_security_secrets.py::test_tokens_stay_in_memory_until_they_end",
        "test_broken_inputs.py::test_a_refused_token_is_forgotten",
    )),
    "10": Row("a cached failure that reads as an empty file", (
        "test_cached_failures.py::test_a_failure_between_blocks_is_no_pixel",
        "test_cached_failures.py::test_a_file_that_ends_too_early_is_no_pixel",
        "test_cached_failures.py::test_a_file_that_was_replaced_is_read_anew",
        "test_cached_failures.py::test_a_block_that_came_damaged_once_is_asked_for_again",
        "test_cached_failures.py::test_a_bucket_that_refused_once_is_asked_again",
        "test_faults_files.py::test_what_passes_while_pixels_are_read_leaves_no_trace",
        "test_faults_files.py::test_what_lasts_is_an_error_that_names_item_and_file",
        "test_load_files.py::test_a_file_that_the_server_lacks",
        "test_load_files.py::test_a_lost_file_fails_and_is_named",
    )),
    "11": Row("searches that repeat items or end too early", (
        "test_faults_missing.py::test_lost_pages_and_items_are_noticed",
        "test_faults_missing.py::test_pages_that_go_round_in_circles_end",
        "test_search.py::test_pages_that_repeat_items_and_busy_servers",
        "test_search.py::test_folder_table_and_api_agree",
    )),
    "12": Row("busy servers", (
        "test_faults_files.py::test_a_server_that_asks_to_wait_is_waited_for",
        "test_search.py::test_pages_that_repeat_items_and_busy_servers",
        "test_search.py::test_search_that_keeps_failing",
    )),
    "13": Row("Sentinel-2's offset since baseline 04.00, missing or twice", (
        "test_prep.py::test_sentinel_2_offset_by_baseline",
        "test_prep.py::test_baseline_is_never_guessed",
        "test_sources.py::test_harmonised_or_not_is_two_rows",
        "test_sources.py::test_recorded_scalings",
        "test_load.py::test_missing_scaling_names_the_item",
        "test_pitfalls_radiometry.py::"
        "test_a_flag_that_contradicts_the_pixels_fails_and_names_the_item",
        "test_pitfalls_radiometry.py::test_real_vegetation_is_as_dark_as_the_check_believes",
        "test_sandbox.py::test_reprocessed_twins_differ_by_the_offset_only",
    )),
    "14": Row("an offset that turns valid pixels into nodata", (
        "test_prep.py::test_constant_vectors",
        "test_pitfalls_radiometry.py::test_nodata_is_the_tables_where_the_file_is_silent",
    )),
    "15": Row("one acquisition, several items", (
        "test_items.py::test_newest_baseline_then_newest_generation",
        "test_items.py::test_two_strips_of_a_tile_are_both_kept",
        "test_items.py::test_landsat_tier_replaces_real_time",
        "test_items.py::test_one_acquisition_in_two_recorded_collections",
        "test_load.py::test_overlapping_tiles_of_a_pass_count_once",
    )),
    "16": Row("radar that is neither calibrated nor terrain-corrected", (
        "test_search.py::test_api_with_raw_grd_only",
        "test_sources.py::test_sandbox_rows_and_refusals",
        "test_sources.py::test_recorded_items_find_their_row",
        "test_load_files.py::test_wrong_type_and_rotated_files_are_refused",
        "test_pitfalls_reading.py::test_images_in_slant_or_sheared_geometry_are_refused",
    )),
    "17": Row("steps between radar platforms and processors", (
        "test_pitfalls_map.py::test_a_map_records_the_orbits_and_platforms_of_its_radar",
        "test_learn_data.py::test_a_level_shift_is_what_shifted_decibels_would_have_become",
        "test_broken_inputs.py::test_archives_of_two_radiometries_do_not_meet_in_one_series",
    )),
    "18": Row("zeros at radar's borders", (
        "test_pitfalls_radiometry.py::test_zeros_at_the_border_of_radar_are_gaps",
        "test_prep.py::test_constant_vectors",
        "test_sources.py::test_archive_encodings_by_hand",
    )),
    "19": Row("means of decibels", (
        "test_pitfalls_composite.py::test_a_month_of_radar_is_the_mean_of_its_powers",
        "test_pitfalls_composite.py::test_coarse_pixels_of_radar_are_means_of_powers",
        "test_load_overviews.py::test_what_overviews_may_stand_for",
        "test_prep.py::test_radar_mean_is_linear",
        "test_load.py::test_aggregate_reads_finer",
        "test_points.py::test_dekads_become_months_as_maps_do",
    )),
    "20": Row("orbits mixed unseen", (
        "test_pitfalls_radiometry.py::test_the_orbits_of_a_tile_are_counted_by_pass",
        "test_pitfalls_map.py::test_a_map_records_the_orbits_and_platforms_of_its_radar",
        "test_pitfalls_map.py::test_each_tile_records_its_own_orbits",
        "test_map_result.py::test_loading_is_what_the_map_uses",
    )),
    "21": Row("Landsat Collection 2's scale and offset", (
        "test_prep.py::test_constant_vectors",
        "test_sources.py::test_recorded_scalings",
        "test_load_real.py::test_landsat_against_rasterio",
    )),
    "22": Row("scene classes interpolated, or believed too much", (
        "test_pitfalls_composite.py::test_a_month_of_reflectance_is_the_median_of_the_clear",
        "test_pitfalls_composite.py::"
        "test_water_and_dark_fields_are_kept_and_thin_cloud_is_not",
        "test_load_overviews.py::test_what_overviews_may_stand_for",
        "test_pitfalls_radiometry.py::test_quality_codes_are_never_mixtures",
        "test_prep.py::test_scene_classification",
        "test_prep.py::test_median_and_mean_against_numpy",
        "test_load.py::test_nearest_against_gdal",
    )),
    "23": Row("20 m bands resampled one way in training, another in mapping", (
        "test_demo.py::test_a_sampled_pixel_is_the_mapped_pixel_to_the_bit",
        "test_load.py::test_coarse_pixels_are_repeated_and_fine_ones_picked",
        "test_map_result.py::test_loading_is_what_the_map_uses",
    )),
    "24": Row("areas and images across the antimeridian", (
        "test_aoi.py::test_antimeridian",
        "test_aoi.py::test_antimeridian_with_hole_and_from_a_projection",
        "test_search.py::test_outlines_for_requests",
        "test_pitfalls_grid.py::test_an_area_across_the_antimeridian_is_two_small_sheets",
        "test_pitfalls_grid.py::test_images_across_the_antimeridian_are_found_once_and_no_others",
        "test_pitfalls_grid.py::test_a_window_at_the_antimeridian_touches_its_images_only",
        "test_publish_preview.py::test_zones_across_the_antimeridian_are_neighbours",
    )),
    "25": Row("seams where UTM zones meet", (
        "test_pitfalls_grid.py::"
        "test_pixels_meet_at_a_zone_border_without_a_gap_and_without_a_double",
        "test_load.py::test_sheets_meet_in_value",
        "test_demo.py::test_map_area_joins_the_sheets_without_a_gap",
    )),
    "26": Row("seams and unmapped strips at tile edges", (
        "test_tiling.py::test_a_pixel_is_the_same_in_any_area_and_tiling",
        "test_tiling.py::test_coarse_pixels_are_the_same_in_any_area_and_tiling",
        "test_infer_predict.py::test_smoothing_is_the_same_in_any_tile",
        "test_map_result.py::test_the_tile_size_changes_no_pixel",
        "test_spec.py::test_tiles_cover_each_pixel_of_a_sheet_once",
        "test_broken_inputs.py::test_areas_that_share_a_cell_find_the_same_images_for_it",
    )),
    "27": Row("COGs written in place; overviews of zeros", (
        "test_publish_cog.py::test_what_is_written_is_read",
        "test_publish_cog.py::test_value_overviews_average_what_is_there",
        "test_publish_cog.py::test_verify_refuses_a_plain_geotiff_and_a_cut_file",
    )),
    "28": Row("overviews that average classes", (
        "test_publish_cog.py::test_class_overviews_take_the_mode_and_never_invent_a_code",
    )),
    "29": Row("files half written", (
        "test_publish_files.py::test_an_interrupted_write_changes_nothing",
        "test_publish_cog.py::test_an_interrupted_write_leaves_what_was_there",
        "test_publish_cog.py::test_a_full_disk",
        "test_publish_cog.py::test_a_copy_that_lost_pixels_is_never_shown",
        "test_publish_files.py::test_an_item_never_names_a_mixture",
        "test_kill.py::test_killed_at_random_moments_nothing_is_torn_or_lost",
    )),
    "30": Row("a class stored as nodata", (
        "test_publish_layers.py::test_a_class_cannot_be_nodata",
        "test_publish_layers.py::test_no_code_is_nodata",
        "test_publish_cog.py::test_a_code_that_is_no_class_is_refused",
        "test_map_result.py::test_a_map_of_two_zones_is_complete_and_valid",
    )),
    "31": Row("failures that become nodata", (
        "test_faults_missing.py::test_files_that_hold_nothing_are_a_failure_and_no_gap",
        "test_faults_files.py::test_a_damaged_block_is_an_error_and_never_zeros",
        "test_map_failures.py::test_an_unreadable_asset_fails_its_tiles_only",
        "test_infer_run.py::test_a_failed_tile_is_named_and_resumed",
        "test_map_failures.py::test_a_store_that_lost_its_pixels_is_not_published",
        "test_failed_tiles.py::test_what_was_made_before_a_failure_is_not_kept",
        "test_failed_tiles.py::test_only_where_all_images_are_hollow_something_is_wrong",
    )),
    "32": Row("a resumed run that takes another run's tiles for its own", (
        "test_infer_run.py::test_a_store_is_resumed_only_by_its_own_run",
        "test_kill.py::test_a_run_killed_early_is_not_resumed_with_what_the_run_before_left",
        "test_pitfalls_map.py::test_a_run_is_not_resumed_as_another_one",
        "test_pitfalls_map.py::test_images_that_come_later_do_not_enter_a_run_that_goes_on",
        "test_items.py::test_fingerprint_is_of_the_images",
    )),
    "33": Row("GDAL as it comes: listings, side-car files, a request a block", (
        "test_requests_of_files.py::test_a_header_is_one_request_and_asked_for_once",
        "test_requests_of_files.py::test_neighbouring_blocks_are_one_request",
        "test_cached_failures.py::test_a_bucket_that_refused_once_is_asked_again",
        "test_pitfalls_reading.py::test_only_the_files_themselves_are_asked_for_and_seldom",
        "test_pitfalls_reading.py::test_the_loaders_settings_go_wherever_a_file_is_read",
        "test_load_files.py::test_range_requests_give_the_same_pixels",
    )),
    "34": Row("outlines that are no valid polygons", (
        "test_aoi.py::test_small_flaws_are_mended",
        "test_aoi.py::test_refused",
        "test_hostile_areas.py::test_refused",
        "test_hostile_areas.py::test_what_crosses_itself_everywhere_is_not_looked_into",
        "test_hostile_areas.py::test_long_outlines_and_those_that_touch_themselves_are_taken",
        "test_pitfalls_reading.py::test_outlines_that_cross_themselves_are_mended",
        "test_pitfalls_reading.py::test_outlines_that_are_none_are_left_out",
        "test_search.py::test_broken_items_are_left_out",
    )),
    "35": Row("items that lack assets", (
        "test_map_failures.py::test_missing_assets_are_left_out_with_a_reason",
        "test_items.py::test_usable_names_what_is_missing",
        "test_sample.py::test_a_sampled_pixel_is_the_mapped_one_where_items_lack_an_unused_band",
    )),
    "36": Row("fuel moisture that is patchy where masks were wrong", (
        "test_plan_choice.py::"
        "test_an_order_that_was_asked_for_is_kept_while_there_is_a_value",
        "test_failed_tiles.py::test_what_was_made_before_a_failure_is_not_kept",
        "test_infer_predict.py::test_regression_is_encoded_in_steps_of_its_scale",
        "test_infer_predict.py::test_too_few_observations_are_nodata_not_a_guess",
        "test_infer_run.py::test_gaps_of_the_first_sensor_are_filled_from_the_next",
        "test_domain.py::test_the_later_rule_wins",
        "test_calibrate.py::test_fewer_steps_never_have_a_narrower_interval",
    )),
    "37": Row("checkpoints that run code, or are not what they were", (
        "test_checkpoints.py::test_a_pickle_is_refused_even_with_its_sha_on_the_card",
        "test_checkpoints.py::test_a_truncated_model_is_refused",
        "test_checkpoints.py::test_a_model_of_another_card_is_refused",
        "test_checkpoints.py::test_an_interrupted_write_leaves_the_old_checkpoint_whole",
    )),
    "a": Row("months without an observation that are taken for observed", (
        "test_load_real.py::test_monthly_archive_keeps_its_gaps",
        "test_prep.py::test_model_input_by_hand",
        "test_points.py::TestReal::test_months_that_repeat_the_month_before_are_gaps",
    )),
    "b": Row("the same class under opposite codes", (
        "test_publish_cog.py::test_class_legend_survives",
        "test_points.py::test_rows_without_a_label_are_left_out",
        "test_points.py::test_labels_may_be_class_names",
        "test_points.py::test_an_unknown_class_is_refused_with_the_known_ones",
        "test_infer_predict.py::test_classes_are_encoded_with_the_probability_of_the_class",
    )),
    "c": Row("units guessed from the values", (
        "test_pitfalls_composite.py::test_a_month_of_radar_is_the_mean_of_its_powers",
        "test_pitfalls_radiometry.py::"
        "test_the_unit_is_the_tables_and_not_guessed_from_the_numbers",
        "test_sources.py::test_archive_encodings_by_hand",
        "test_sources.py::test_real_scenes_find_their_row",
        "test_map_failures.py::test_a_checkpoint_that_does_not_fit_is_refused",
    )),
    "d": Row("training on columns that a map cannot compute", (
        "test_demo.py::test_a_sampled_pixel_is_the_mapped_pixel_to_the_bit",
        "test_prep.py::test_indices_by_hand",
        "test_context.py::test_what_a_task_may_use_a_map_can_fetch",
    )),
    "e": Row("folds that share a place", (
        "test_pitfalls_folds.py::test_training_keeps_places_together_unless_told_otherwise",
        "test_pitfalls_folds.py::test_what_stops_a_training_lies_elsewhere_too",
        "test_pitfalls_folds.py::test_an_evaluation_keeps_places_together",
        "test_pitfalls_folds.py::test_places_are_joined_over_a_chain_of_sets",
        "test_learn_data.py::test_folds_cut_no_group_and_cover_every_row_once",
        "test_learn_data.py::test_the_inner_split_is_of_whole_groups",
        "test_learn_data.py::test_groups_of_two_sets_at_one_place_become_one",
    )),
}
