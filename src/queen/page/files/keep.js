// What this browser keeps: settings and jobs in localStorage, pictures in IndexedDB. Nothing of it is a token.

const JOB = "rbee.job.";

/** What was written under a key, or `otherwise`. */
export function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** A browser that keeps nothing, or no more, is no reason to stop. */
export function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch (error) {
    console.warn("this browser keeps no more:", error.message);
  }
}

// A key for each job: tabs that write at the same time lose nothing of each other.
export const writeJob = (job) => write(JOB + job.id, job);

export function readJobs() {
  const keys = Object.keys(localStorage).filter((key) => key.startsWith(JOB));
  return keys.map((key) => read(key)).filter((job) => job?.id && job.request);
}

export function dropJob(id) {
  localStorage.removeItem(JOB + id);
  dropPictures(`${id}/`);
}

/** Tells of jobs that other tabs wrote, with null for one that they dropped. */
export function onJob(told) {
  addEventListener("storage", (event) => {
    if (event.key?.startsWith(JOB)) told(event.key.slice(JOB.length), event.newValue && read(event.key));
  });
}

const PICTURES = "pictures";
let opening;

function open() {
  opening ??= new Promise((resolve) => {
    const request = indexedDB.open("rbee", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(PICTURES);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  }).catch(() => null);
  return opening;
}

async function transact(mode, act) {
  const base = await open();
  if (!base) return undefined;
  return new Promise((resolve) => {
    const request = act(base.transaction(PICTURES, mode).objectStore(PICTURES));
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(undefined);
  });
}

/** A picture that was kept; undefined where none is. */
export const readPicture = (key) => transact("readonly", (pictures) => pictures.get(key));
export const writePicture = (key, blob) => transact("readwrite", (pictures) => pictures.put(blob, key));
/** Drops those whose keys begin so. */
export const dropPictures = (prefix) =>
  transact("readwrite", (pictures) => pictures.delete(IDBKeyRange.bound(prefix, `${prefix}\uffff`)));
