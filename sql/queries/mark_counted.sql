-- mark_counted: that the slides $slide_ids of the grid $grid_id are counted by the rule that $rule tells.
UPDATE labelled
SET counted_by = $rule
WHERE labelled.grid_id = $grid_id AND list_contains($slide_ids, labelled.slide_id)
