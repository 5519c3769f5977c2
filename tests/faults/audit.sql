-- What no writer may do, written down by the database itself: however briefly a wrong value stands, it is on record.

CREATE TABLE audit (at timestamptz NOT NULL DEFAULT clock_timestamp(), execution_id uuid NOT NULL, what text NOT NULL);
GRANT INSERT ON audit TO PUBLIC;

CREATE FUNCTION audit_execution() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.fence < OLD.fence THEN
        INSERT INTO audit (execution_id, what) VALUES (OLD.id, format('fence from %s to %s', OLD.fence, NEW.fence));
    END IF;
    IF OLD.state = 'ended' AND (NEW.state, NEW.status, NEW.fence, NEW.completed_at, NEW.error_code)
        IS DISTINCT FROM (OLD.state, OLD.status, OLD.fence, OLD.completed_at, OLD.error_code) THEN
        INSERT INTO audit (execution_id, what)
        VALUES (OLD.id, format('ended as %s, then %s %s', OLD.status, NEW.state, NEW.status));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER audit AFTER UPDATE ON executions_execution FOR EACH ROW EXECUTE FUNCTION audit_execution();

CREATE FUNCTION audit_step() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held text;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.status = 'success'
        AND (NEW.status, NEW.completed_at, NEW.output) IS DISTINCT FROM (OLD.status, OLD.completed_at, OLD.output) THEN
        INSERT INTO audit (execution_id, what) VALUES (NEW.execution_id, format('finished step %s changed', NEW.key));
    END IF;
    -- Nobody holds the execution, and this transaction has not just released it: a worker wrote that had lost its lease.
    -- (What ends an execution from outside closes its open steps as errors.)
    SELECT state INTO held FROM executions_execution
    WHERE id = NEW.execution_id AND state <> 'working' AND pg_xact_status(xmin::text::xid8) <> 'in progress';
    IF held IS NOT NULL AND NEW.status <> 'error' THEN
        INSERT INTO audit (execution_id, what)
        VALUES (NEW.execution_id, format('step %s written as %s while %s', NEW.key, NEW.status, held));
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER audit AFTER INSERT OR UPDATE ON executions_step FOR EACH ROW EXECUTE FUNCTION audit_step();
